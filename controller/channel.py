# SPDX-License-Identifier: AGPL-3.0-or-later
"""The way to one switch, as the rest of the controller sees it; ``controller.openflow.channel`` is the real one."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from controller.batches import Delivery
from controller.changes import Change
from controller.device import Device
from controller.flows import FlowEntry, GroupEntry, MeterEntry
from controller.ports import PortChange, PortCounters, PortState


class ChannelError(Exception):
    """A switch refused a request, did not answer in time, or is gone."""


class NotMasterError(ChannelError):
    """A write was refused because the switch takes writes from another controller."""


class StaleGenerationError(ChannelError):
    """A role was refused because another controller had one under a higher ``generation``, which the switch told."""

    def __init__(self, text: str, generation: int = 0) -> None:
        super().__init__(text)
        self.generation = generation


class Role(enum.StrEnum):
    """What a controller is to a switch (OpenFlow 1.3.5, 6.3.6); EQUAL, the default of a connection, is never used."""

    MASTER = "master"
    SLAVE = "slave"


@dataclass(frozen=True, slots=True)
class CountedEntry:
    """An entry as a switch holds it: packets and bytes that it matched, seconds since it was added."""

    entry: FlowEntry
    packets: int
    octets: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FlowReading:
    """Entries with our tag that a switch holds, how many others, and how many that it learned for connections."""

    entries: tuple[CountedEntry, ...]
    foreign: int
    learned: int = 0


@dataclass(frozen=True, slots=True)
class GroupReading:
    """Groups with our tag that a switch holds, and how many others it holds."""

    groups: tuple[GroupEntry, ...]
    foreign: int


@dataclass(frozen=True, slots=True)
class MeterReading:
    """Meters with our tag that a switch holds; the rate of one that is not of our kind is 0."""

    meters: tuple[MeterEntry, ...]


class Channel(ABC):
    """A connection to one switch that has shown its certificate and told its datapath id.

    ``delivery`` is set by whoever knows what kind of switch it is; None: changes go in one atomic bundle.
    """

    delivery: Delivery | None = None

    @property
    @abstractmethod
    def datapath_id(self) -> int:
        """The datapath id that the switch told."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where the switch connects from."""

    @abstractmethod
    async def take_role(self, role: Role, generation: int) -> None:
        """Ask for a role under a generation (64 bits); without MASTER, ``apply`` sends nothing.

        Raises StaleGenerationError, and ChannelError for anything else.
        """

    @abstractmethod
    async def apply(self, changes: Sequence[Change]) -> None:
        """Make changes in this order and all together, then a barrier; raises ChannelError and then nothing changed.

        With a ``delivery`` they are made in the order and lots of ``controller.batches``; where one fails, those before
        it stay made.
        Meters are the exception: they come before everything else and go after it, since no bundle takes them.
        If the connection ends meanwhile, it is not known whether they were made.  Raises NotMasterError if this channel
        was not granted MASTER, or another controller took it since.
        """

    @abstractmethod
    async def read_flows(self, cookie: int = 0, mask: int = 0) -> FlowReading:
        """Read the entries whose cookie agrees with ``cookie`` in the bits of ``mask``; raises ChannelError."""

    @abstractmethod
    async def read_groups(self) -> GroupReading:
        """Read all groups, none of a switch that has none; raises ChannelError."""

    @abstractmethod
    async def read_meters(self) -> MeterReading:
        """Read all meters, none of a switch that has none; raises ChannelError."""

    @abstractmethod
    async def read_ports(self) -> tuple[PortState, ...]:
        """Read the description of every port; raises ChannelError."""

    @abstractmethod
    async def read_port_counters(self) -> tuple[PortCounters, ...]:
        """Read the counters of every port; raises ChannelError."""

    @abstractmethod
    def on_port(self, listener: Callable[[PortChange], None]) -> None:
        """Have ``listener`` called, in place of the one before, with every change of a port."""

    @abstractmethod
    def device(self) -> Device:
        """Return the switch as a probe sees it."""

    @abstractmethod
    async def set_ports(self, numbers: Sequence[int], *, up: bool) -> int:
        """Set ports up or down as an administrator does; returns how many were otherwise.  Raises ChannelError.

        The other end of the cable loses its carrier with a port that is down.  A port that the switch does not have is
        left out: nothing passes it.
        """

    @abstractmethod
    def on_packet(self, listener: Callable[[int, bytes], None]) -> None:
        """Have ``listener`` called, in the event loop, with port and frame of every packet that the switch sends us."""

    @abstractmethod
    async def send_packets(self, packets: Sequence[tuple[int, bytes]]) -> None:
        """Let frames leave by ports; raises ChannelError.  Nobody tells whether they did."""

    @abstractmethod
    def close(self, reason: str) -> None:
        """End the connection; ``reason`` goes to the log."""

    @abstractmethod
    async def closed(self) -> str:
        """Wait until the connection has ended; returns why."""
