# SPDX-License-Identifier: AGPL-3.0-or-later
"""A switch in memory behind the Channel interface; it can refuse, forget, and go away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from controller.changes import Change, patched
from controller.channel import (
    Channel,
    ChannelError,
    CountedEntry,
    FlowReading,
    GroupReading,
    MeterReading,
    NotMasterError,
    Role,
    StaleGenerationError,
)
from controller.device import Device
from controller.flows import TableSet
from controller.ports import PortChange, PortCounters, PortState


@dataclass
class Held:
    """What several connections to one switch share; ``generation`` is None before the first role was taken."""

    tables: TableSet = field(default_factory=TableSet)
    generation: int | None = None
    master: FakeSwitch | None = None


class FakeSwitch(Channel):
    """A connection to a switch; ``writes`` are the changes that it was sent, ``refuse`` lets the next one fail."""

    def __init__(self, datapath_id: int, tables: TableSet | None = None, held: Held | None = None) -> None:
        self.held = held or Held(tables or TableSet())
        self.role: Role | None = None
        self.roles: list[tuple[Role, int]] = []
        self.writes: list[tuple[Change, ...]] = []
        self.reads: list[tuple[int, int]] = []
        self.refuse: str | None = None
        self.lose_next_write = False
        self.foreign = 0
        self.slow = asyncio.Event()
        self.slow.set()
        self.ports: dict[int, PortState] = {}
        self.counted: dict[int, PortCounters] = {}
        self._port_listener: Callable[[PortChange], None] = lambda change: None
        self.ports_down: set[int] = set()
        self.packets: list[tuple[int, bytes]] = []
        self.listener: Callable[[int, bytes], None] = lambda port, frame: None
        self._datapath_id = datapath_id
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def datapath_id(self) -> int:
        return self._datapath_id

    @property
    def address(self) -> str:
        return f"fake {self._datapath_id}"

    @property
    def tables(self) -> TableSet:
        return self.held.tables

    @tables.setter
    def tables(self, tables: TableSet) -> None:
        self.held.tables = tables

    async def take_role(self, role: Role, generation: int) -> None:
        self._check()
        self.roles.append((role, generation))
        if self.held.generation is not None and generation < self.held.generation:
            raise StaleGenerationError("stale", self.held.generation)
        self.held.generation = generation
        self.role = role
        if role is Role.MASTER:
            self.held.master = self
        elif self.held.master is self:
            self.held.master = None

    async def apply(self, changes: Sequence[Change]) -> None:
        self._check()
        assert self.role is not None, "a write as EQUAL"
        await self.slow.wait()
        if self.held.master is not self:
            raise NotMasterError(f"{self.address}: is slave")
        if self.refuse is not None:
            reason, self.refuse = self.refuse, None
            raise ChannelError(reason)
        self.writes.append(tuple(changes))
        if self.lose_next_write:
            self.lose_next_write = False
        else:
            self.tables = patched(self.tables, changes)

    async def read_flows(self, cookie: int = 0, mask: int = 0) -> FlowReading:
        self._check()
        self.reads.append((cookie, mask))
        found = [entry for entry in self.tables if entry.cookie & mask == cookie & mask]
        return FlowReading(tuple(CountedEntry(entry, 3, 300, 1.5) for entry in found), self.foreign)

    async def read_groups(self) -> GroupReading:
        self._check()
        return GroupReading(tuple(self.tables.groups.values()), 0)

    async def read_meters(self) -> MeterReading:
        self._check()
        return MeterReading(tuple(self.tables.meters.values()))

    async def read_ports(self) -> tuple[PortState, ...]:
        self._check()
        return tuple(self.ports.values())

    async def read_port_counters(self) -> tuple[PortCounters, ...]:
        self._check()
        return tuple(self.counted.values())

    def on_port(self, listener: Callable[[PortChange], None]) -> None:
        self._port_listener = listener

    def port(self, number: int, up: bool, *, gone: bool = False) -> None:
        """Bring a port up or down, or take it out."""
        state = PortState(number, f"eth{number}", up, 10_000_000, 0x020000000000 | number)
        self.ports[number] = state
        if gone:
            del self.ports[number]
        self._port_listener(PortChange(state, gone))

    def device(self) -> Device:
        raise ChannelError(f"{self.address}: it cannot be probed")

    async def set_ports(self, numbers: Sequence[int], *, up: bool) -> int:
        self._check()
        wrong = {number for number in numbers if (number in self.ports_down) is up}
        self.ports_down = self.ports_down - wrong if up else self.ports_down | wrong
        return len(wrong)

    def on_packet(self, listener: Callable[[int, bytes], None]) -> None:
        self.listener = listener

    async def send_packets(self, packets: Sequence[tuple[int, bytes]]) -> None:
        self._check()
        self.packets.extend(packets)

    def close(self, reason: str) -> None:
        if not self._end.done():
            self._end.set_result(reason)

    async def closed(self) -> str:
        return await asyncio.shield(self._end)

    @property
    def is_closed(self) -> bool:
        return self._end.done()

    def _check(self) -> None:
        if self._end.done():
            raise ChannelError(f"{self.address}: {self._end.result()}")
