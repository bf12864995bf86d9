# SPDX-License-Identifier: AGPL-3.0-or-later
"""What odysseyd answers: each RPC method with the permission that it needs, in one table."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import schemas
from odyssey.api.bus import Bus, Method
from odyssey.api.fabric import FabricQueries
from odyssey.api.netconf import NetconfQueries
from odyssey.api.parameters import text
from odyssey.api.queries import Queries
from odyssey.api.roles import Forbidden, Permission, Role, authorise
from odyssey.orchestrator.engine import Engine
from odyssey.security.tokens import DEFAULT_LIFETIME, JoinTokens, TokenRefused
from rdmp.hub import RpcHandler
from rdmp.rpc import RpcError
from rdmp.tls import Identity

_log = logging.getLogger(__name__)
#: Methods whose whole answer is of one node, or is filtered by the parameter `platform`, or by `network` too.
_OF_A_NODE = frozenset({"node.show", "node.logs"})
_OF_A_PLATFORM = frozenset({"node.list", "network.list", "platform.show"})
_OF_A_NETWORK = frozenset({"node.list"})
Progress = Callable[[Mapping[str, Any]], Awaitable[None]]
_Query = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
_Watched = Callable[[Progress, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Service:
    """The Micro-ESB call as an RPC method: schema first, then role, then the engine."""

    engine: Engine
    roles: tuple[Role, ...]

    async def call(self, peer: Identity, params: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
        """Check and carry out one service call. Raises RpcError."""
        faults = schemas.validate("service-call", params)
        if faults:
            raise RpcError("invalid", "the service call does not fit its schema", faults)
        for item in params["data"]:
            _authorise(peer, _permission(params["SYSServiceID"], item["System"]), self.roles)
        return await self.engine.submit(params, f"{peer.role}/{peer.name}", progress)


def _permission(service: str, system: Mapping[str, Any]) -> Permission:
    document = system.get("document", {})
    platform = system.get("platform") or document.get("platform", "")
    network = system.get("Network", {}).get("name", "")
    return Permission(service, platform, network)


def allowed(peer: Identity, permission: Permission, roles: tuple[Role, ...]) -> bool:
    """Whether `peer` has the permission."""
    try:
        authorise(peer, permission, roles)
    except Forbidden as error:
        _log.warning("%s", error)
        return False
    return True


def _authorise(peer: Identity, permission: Permission, roles: tuple[Role, ...]) -> None:
    try:
        authorise(peer, permission, roles)
    except Forbidden as error:
        raise RpcError("forbidden", str(error)) from error


class Api(RpcHandler):
    """Dispatches RPCs. Methods that it does not list do not exist for anybody.

    The hub needs it before the parts behind it can exist (they need the hub), so it is opened afterwards; the hub
    serves nobody before that.
    """

    def __init__(self, roles: tuple[Role, ...]) -> None:
        self._roles = roles
        self._service: Service | None = None
        self._tokens: JoinTokens | None = None
        self._enrol: str | None = None
        self._queries: dict[str, _Query] = {}
        self._bus: dict[str, Method] = {}
        self._watched: dict[str, _Watched] = {}
        self._owner: Callable[[Mapping[str, Any]], tuple[str, str]] | None = None

    def open(
        self, service: Service, queries: Queries, fabric: FabricQueries, netconf: NetconfQueries, bus: Bus,
        tokens: JoinTokens | None, enrol: str | None,
    ) -> None:  # fmt: skip
        """Begin to answer; `enrol` is the address (`HOST:PORT`) at which tokens are accepted."""
        self._service = service
        self._owner = queries.owner
        self._bus = bus.methods()
        self._tokens = tokens
        self._enrol = enrol
        self._queries = {
            "status": queries.status,
            "state.get": queries.state,
            "tx.list": queries.transactions,
            "tx.show": queries.transaction,
            "call.show": queries.call,
            "peers.list": queries.peers,
            "switch.list": queries.switches,
            "switch.flows": queries.flows,
            "switch.cabling": queries.cabling.cabling,
            "node.list": queries.nodes,
            "node.show": queries.node,
            "node.logs": queries.logs,
            "network.list": queries.networks,
            "host.list": queries.hosts,
            "host.show": queries.host,
            "platform.list": queries.platforms,
            "platform.show": queries.platform,
            "inventory.show": queries.inventory,
            "fabric.path": fabric.path,
            "fabric.show": fabric.show,
            "fabric.verify": fabric.verify,
            "fabric.capacity": fabric.capacity,
            "fabric.counters": fabric.counters,
            "switch.ports": fabric.ports,
            "netconf.list": netconf.list,
            "netconf.diff": netconf.diff,
            "netconf.backups": netconf.backups,
        }
        self._watched = {
            "switch.probe": fabric.probe, "netconf.restore": netconf.restore, "netconf.mend": netconf.mend,
        }  # fmt: skip

    def may_publish(self, peer: Identity, topic: str) -> bool:
        return allowed(peer, Permission(f"publish:{topic}"), self._roles)

    def may_subscribe(self, peer: Identity, topics: tuple[str, ...]) -> bool:
        return all(allowed(peer, Permission(f"subscribe:{topic}"), self._roles) for topic in topics)

    async def call(
        self, peer: Identity, method: str, params: Mapping[str, Any], progress: Progress
    ) -> Mapping[str, Any]:
        """Answer one RPC of `peer`. Raises RpcError with a code and a text for people."""
        if method == "service.call" and self._service is not None:
            return await self._service.call(peer, params, progress)
        query = self._create_token(peer) if method == "token.create" else self._queries.get(method)
        if method in self._bus:
            query = functools.partial(self._bus[method], peer)
        if method in self._watched:
            query = functools.partial(self._watched[method], progress)
        if query is None:
            known = ", ".join(sorted([*self._queries, *self._bus, *self._watched, "service.call", "token.create"]))
            raise RpcError("unknown_method", f"there is no method {method}; known are {known}")
        _authorise(peer, Permission(method, *self._concerned(method, params)), self._roles)
        return await query(params)

    def _concerned(self, method: str, params: Mapping[str, Any]) -> tuple[str, str]:
        """Platform and network to which an answer is confined; a method that is not so confined concerns all of them.

        What a caller says of itself counts only where the answer is filtered by it.
        """
        if method in _OF_A_NODE and self._owner is not None:
            return self._owner(params)
        platform, network = (str(params.get(key) or "") for key in ("platform", "network"))
        return platform if method in _OF_A_PLATFORM else "", network if method in _OF_A_NETWORK else ""

    def _create_token(self, peer: Identity) -> _Query:
        async def create(params: Mapping[str, Any]) -> Mapping[str, Any]:
            if self._tokens is None:
                raise RpcError("no_ca", "this orchestrator holds no CA ([odysseyd] ca_dir), so nobody can join by it")
            role, name = (text(params, key) for key in ("role", "name"))
            try:
                token = await self._tokens.create(role, name, float(params.get("ttl") or DEFAULT_LIFETIME))
            except (TokenRefused, ValueError) as error:
                raise RpcError("invalid", str(error)) from error
            _log.info("%s made a join token for %s/%s", peer, role, name)
            return {
                "token": token.text, "role": token.role, "name": token.name, "expires": token.expires,
                "enrol": self._enrol,
            }  # fmt: skip

        return create
