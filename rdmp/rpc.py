# SPDX-License-Identifier: AGPL-3.0-or-later
"""Errors of remote calls, and who answers them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rdmp.tls import Identity
from schemas import Fault

ProgressSender = Callable[[Mapping[str, Any]], Awaitable[None]]


class RpcError(Exception):
    """A call was refused or failed. ``code`` is for programs, ``message`` for people, ``faults`` names wrong fields."""

    def __init__(self, code: str, message: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {fault.message}" for fault in self.faults)])

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``reply`` carries."""
        value: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.faults:
            value["faults"] = [fault.to_json() for fault in self.faults]
        return value

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> RpcError:
        """Read the object that ``reply`` carries (already checked against the schema)."""
        faults = tuple(
            Fault(item["path"], item.get("found"), item["expected"], item["message"])
            for item in value.get("faults", ())
        )
        return _BY_CODE.get(value["code"], RpcError)(value["code"], value["message"], faults)


class PeerAbsent(RpcError):
    """The peer is not connected, or the connection ended before the answer (it may have been carried out)."""


class RpcTimeout(RpcError):
    """No answer within the time limit (it may have been carried out)."""


_BY_CODE: Mapping[str, type[RpcError]] = {"peer_absent": PeerAbsent, "timeout": RpcTimeout}


class RpcHandler(ABC):
    """Answers the calls that peers make to a hub."""

    @abstractmethod
    async def call(
        self, peer: Identity, method: str, params: Mapping[str, Any], progress: ProgressSender
    ) -> Mapping[str, Any]:
        """Answer one call of ``peer``; raises RpcError.  Cancelled when the caller gives up or leaves."""

    def may_publish(self, peer: Identity, topic: str) -> bool:
        """Tell whether ``peer`` may publish ``topic`` (those of the hub itself, tx, peer and hub, nobody may)."""
        return peer.role in ("agent", "controller", "netconf", "operator", "publisher")

    def may_join(self, peer: Identity, group: str) -> bool:
        """Tell whether ``peer``, a participant, may answer the calls to ``group``."""
        return True

    def may_subscribe(self, peer: Identity, topics: tuple[str, ...]) -> bool:
        """Tell whether ``peer`` may subscribe to ``topics``."""
        return peer.role in ("operator", "orchestrator")
