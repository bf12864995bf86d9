# SPDX-License-Identifier: AGPL-3.0-or-later
"""One connected switch: what it holds, in which role we are there, how it is changed and read back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from controller import texts
from controller.changes import Change, FlowChange, GroupChange, MeterChange, difference, patched
from controller.channel import (
    Channel,
    ChannelError,
    CountedEntry,
    FlowReading,
    NotMasterError,
    Role,
    StaleGenerationError,
)
from controller.fabric import Switch
from controller.flows import COOKIE_OWNER_MASK, EntryKey, TableSet
from controller.tenure import MAX_GENERATION, Tenure

_log = logging.getLogger(__name__)
#: Is given the name of a switch and a reading of all its entries.
OnReading = Callable[[str, FlowReading], None]

#: More owners than this in one change are read back by one request for everything.
OWNERS_READ_SINGLY = 8
#: Differences that a message or an event names; the rest is counted.
NAMED_DIFFERENCES = 5


@dataclass(frozen=True, slots=True)
class Drift:
    """What a switch holds otherwise than it should: what it ``lost``, what it has ``extra``, and foreign entries."""

    lost: tuple[Change, ...]
    extra: tuple[Change, ...]
    foreign: int

    @classmethod
    def between(cls, actual: TableSet, target: TableSet, foreign: int) -> Drift:
        """Compare what a switch holds with what it should."""
        changes = difference(actual, target)
        lost = [change for change in changes if change.op != "-"]
        extra = [change for change in changes if change.op == "-"]
        return cls(tuple(lost), tuple(extra), foreign)

    @property
    def count(self) -> int:
        """How many entries, groups and meters of ours are wrong."""
        return len(self.lost) + len(self.extra)

    def examples(self, most: int) -> list[str]:
        """Return some of what is wrong, in words."""
        words = (("missing", self.lost), ("extra", self.extra))
        return [f"{word} {texts.change_text(change)}" for word, changes in words for change in changes[:most]][:most]


@dataclass(frozen=True, slots=True)
class Look:
    """What a switch held when it was looked at, with counters; and how many entries and groups of others."""

    tables: TableSet
    counted: Mapping[EntryKey, CountedEntry]
    foreign: int


class SwitchConnection:
    """One connected switch."""

    def __init__(self, name: str, channel: Channel, on_reading: OnReading = lambda name, reading: None) -> None:
        """``on_reading`` is given every reading of all entries."""
        self.name = name
        self.channel = channel
        self._on_reading = on_reading
        self.role: Role | None = None
        self.stood = asyncio.Event()  # a role was granted
        self._generation = 0  # under which the role was granted
        self._was_master = False
        self.known: TableSet | None = None
        self.confirmed: TableSet | None = None
        """What it was last brought to and read back with; None from the first change on the way to something else."""
        self.inspected = False  # what it holds was read: it is or was one of the inventory
        self.foreign = 0
        self.drift = 0
        self.last_verified: datetime | None = None
        self.lock = asyncio.Lock()

    def is_master(self, tenure: Tenure) -> bool:
        """Tell whether the switch granted MASTER under the generation by which we lead."""
        return tenure.leads() and self.role is Role.MASTER and self._generation == tenure.generation

    async def take_role(self, tenure: Tenure) -> str | None:
        """Ask the switch for the role that is ours; who leads no more learns it so.  Only under ``lock``.

        Returns the reason if we became MASTER or are so no more.  Raises ChannelError.
        """
        role, generation = (Role.MASTER if tenure.leads() else Role.SLAVE), tenure.generation
        reason = "appointed" if role is Role.MASTER else "another controller leads"
        try:
            await self.channel.take_role(role, generation)
        except StaleGenerationError as stale:
            self._lose_role()
            if stale.generation > MAX_GENERATION:
                text = f"its controller has the generation {stale.generation}, which is not one of ours: remove it"
                raise ChannelError(f"{self.name}: {text}") from stale
            await tenure.superseded(stale.generation)
            role, generation, reason = Role.SLAVE, tenure.generation, f"generation {stale.generation} leads"
            await self.channel.take_role(role, generation)
        if (role, generation) != (self.role, self._generation):
            self.known = self.confirmed = None  # another one may have written meanwhile
        self.role, self._generation = role, generation
        self.stood.set()
        before, self._was_master = self._was_master, role is Role.MASTER
        return reason if self._was_master != before else None

    def _lose_role(self) -> None:
        self.role = self.known = self.confirmed = None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Notice that another controller took the switch."""
        try:
            yield
        except NotMasterError:
            self._lose_role()
            raise

    async def bring_to(self, target: Callable[[], TableSet]) -> int:
        """Make the switch hold exactly ``target`` (asked for when it is our turn); returns the number of changes.

        Raises ChannelError, also if what is read back is not what was sent.
        """
        async with self.lock:
            wanted = target()
            changes = difference(await self.ensure_known(), wanted)
            await self.apply(changes)
            await self.confirm(changes, wanted)
            return len(changes)

    async def ensure_known(self) -> TableSet:
        """Return what the switch holds, read if it is not known.  Only under ``lock``.  Raises ChannelError."""
        if self.known is None:
            await self._read()
        assert self.known is not None
        return self.known

    async def apply(self, changes: Sequence[Change]) -> None:
        """Make changes.  Only under ``lock``.  Raises ChannelError; then it is not known what the switch holds."""
        if changes:
            before, self.known = await self.ensure_known(), None
            self.confirmed = None
            with self._writing():
                await self.channel.apply(changes)
            self.known = patched(before, changes)

    async def confirm(self, changes: Sequence[Change], wanted: TableSet) -> None:
        """Read back what was changed and compare it with what is wanted.  Only under ``lock``.  Raises ChannelError."""
        if changes:
            self.known = None
            await self._read_back(changes, wanted)
        self.known = self.confirmed = wanted  # equal to what was read, and shares its entries with the next intent
        self.drift = 0
        self._verified()

    async def set_ports(self, switch: Switch, ports: Sequence[int]) -> None:
        """Set the ports to hosts and borders as the maintenance of the switch wants them.  Raises ChannelError.

        Outside of maintenance they are left alone: an operator may have shut one.
        """
        if not switch.maintenance:
            return
        with self._writing():
            changed = await self.channel.set_ports(ports, up=not switch.isolated)
        if changed:
            _log.info("switch %s: ports to hosts and borders are %s", self.name, "down" if switch.isolated else "up")

    async def verify(self, target: Callable[[], TableSet]) -> Drift:
        """Read the whole switch and, as its MASTER, repair drift; returns what was found.  Raises ChannelError.

        Drift is measured against what the switch held when we last looked, and goes back to that: a change that is
        decided but waits for its turn is no drift, and comes in rounds over all switches.  Where that is not known it
        is measured against ``target``, and a switch that differs stays so (``confirmed`` is None): what may come before
        the other switches have theirs, only the rounds know.
        """
        async with self.lock:
            expected = self.known if self.role is Role.MASTER else None
            await self._read()
            assert self.known is not None
            wanted = target() if expected is None else expected
            drift = Drift.between(self.known, wanted, self.foreign)
            self.drift = drift.count
            if self.role is not Role.MASTER:
                self._verified()
            elif expected is None and drift.count:
                self.confirmed = None
            else:
                changes = difference(self.known, wanted)
                await self.apply(changes)
                await self.confirm(changes, wanted)
        return drift

    async def look(self) -> Look:
        """Read the whole switch and change nothing, not even what is known of it: drift is still found and told.

        Raises ChannelError.
        """
        async with self.lock:
            flows = await self.channel.read_flows()
            self._on_reading(self.name, flows)
            groups = await self.channel.read_groups()
            meters = await self.channel.read_meters()
        tables = TableSet.of((counted.entry for counted in flows.entries), groups.groups, meters.meters)
        return Look(tables, {counted.entry.key: counted for counted in flows.entries}, flows.foreign + groups.foreign)

    async def _read(self) -> None:
        self.known = None
        flows = await self.channel.read_flows()
        self._on_reading(self.name, flows)
        groups = await self.channel.read_groups()
        meters = await self.channel.read_meters()
        self.foreign = flows.foreign + groups.foreign
        self.known = TableSet.of((counted.entry for counted in flows.entries), groups.groups, meters.meters)
        self.inspected = True

    async def _read_back(self, changes: Sequence[Change], wanted: TableSet) -> None:
        """Compare every owner that was touched, and all groups and meters if one was."""
        owners = frozenset(change.entry.owner for change in changes if isinstance(change, FlowChange))
        if len(owners) > OWNERS_READ_SINGLY:
            readings = [await self.channel.read_flows()]
        else:
            singly = (self.channel.read_flows(owner, COOKIE_OWNER_MASK) for owner in sorted(owners))
            readings = await asyncio.gather(*singly)
        # A switch that ignores cookie masks answers each request with everything.
        actual = {entry.key: entry for entry in self._entries(readings, owners)}
        groups, meters = wanted.groups, wanted.meters
        if any(isinstance(change, GroupChange) for change in changes):
            groups = TableSet.of((), (await self.channel.read_groups()).groups).groups
        if any(isinstance(change, MeterChange) for change in changes):
            meters = TableSet.of((), (), (await self.channel.read_meters()).meters).meters
        expected = TableSet(wanted.owned_by(owners), wanted.groups, wanted.meters)
        drift = Drift.between(TableSet(actual, groups, meters), expected, 0)
        if drift.count:
            examples = "; ".join(drift.examples(NAMED_DIFFERENCES))
            raise ChannelError(f"{self.name}: {drift.count} differences after a change was confirmed: {examples}")

    @staticmethod
    def _entries(readings: list[FlowReading], owners: frozenset[int]) -> Any:
        return (counted.entry for reading in readings for counted in reading.entries if counted.entry.owner in owners)

    def _verified(self) -> None:
        self.last_verified = datetime.now(UTC)
