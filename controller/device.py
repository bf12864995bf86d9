# SPDX-License-Identifier: AGPL-3.0-or-later
"""A switch as a probe sees it: things that it may refuse, and packets that nobody sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controller.changes import Change


@dataclass(frozen=True, slots=True)
class RoleAnswer:
    """What a switch says of this connection's role; ``refusal`` is its error where it refused.

    ``generation`` is the highest ``generation_id`` that it has heard, None if it never heard one.
    """

    role: str
    generation: int | None
    refusal: str | None = None


class Device(ABC):
    """Every method raises ChannelError if the connection ends or an answer does not come in time."""

    @abstractmethod
    async def tables(self) -> int:
        """Return how many tables the switch says that it has."""

    @abstractmethod
    async def attempt(self, changes: Sequence[Change]) -> Mapping[int, str]:
        """Send changes one by one, then a barrier; returns the error of each that was refused, by its number."""

    @abstractmethod
    async def sweep(self, cookie: int, mask: int) -> None:
        """Delete every entry whose cookie agrees with ``cookie`` in the bits of ``mask``, then a barrier."""

    @abstractmethod
    async def inject(self, port: int, frame: bytes, count: int) -> None:
        """Let a frame go through the tables ``count`` times as if it came in at ``port``, then a barrier."""

    @abstractmethod
    async def ask_role(self) -> RoleAnswer:
        """Ask for the role of this connection and change nothing."""

    @abstractmethod
    async def try_master(self, generation: int) -> RoleAnswer:
        """Ask to be MASTER under a generation (64 bits)."""
