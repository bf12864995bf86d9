# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finds out what a switch really does, by trying it on entries and packets that nobody else has.

Each experiment holds the switch for itself and takes away what it made before anybody else may change the switch.  What
a killed controller leaves has our tag and is in nobody's intent: the next look at the switch deletes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from controller.changes import Change, FlowChange, GroupChange, MeterChange
from controller.channel import ChannelError, CountedEntry
from controller.connection import SwitchConnection
from controller.device import Device
from controller.flows import ClearInPort, FlowEntry, Output, OutputInPort
from controller.probe_plan import BELOW, COOKIE, COOKIE_MASK, GROUP, METER, Plan, Trial
from controller.profiles.base import Capabilities

_log = logging.getLogger(__name__)
Json = dict[str, Any]
Progress = Callable[[Json], Awaitable[None]]
Answer = Literal["yes", "no", "unknown"]

PACKETS = 50  # of an experiment; so many that other traffic of a moment does not hide them
ROUNDS = 20
BATCH = 300  # entries at once: the most that a Nexus 9000 takes
LISTEN_SECONDS = 0.5  # how long other traffic of a port is watched
SEE_SECONDS = 2.0  # how long a port's counter may take to show what was sent
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Finding:
    """One capability: what the profile says of it, None where it says nothing, and what the device did."""

    capability: str
    profile: str | None
    found: str
    detail: str = ""

    def to_json(self) -> Json:
        """Return it as an answer carries it; ``agrees`` is None where the two cannot be compared."""
        known = self.profile not in (None, "unknown") and self.found != "unknown"
        return {
            "capability": self.capability,
            "profile": self.profile,
            "found": self.found,
            "agrees": self.profile == self.found if known else None,
            "detail": self.detail,
        }


class Probe:
    """One run over one switch."""

    def __init__(
        self, connection: SwitchConnection, plan: Plan, says: Capabilities, capacity: int, progress: Progress
    ) -> None:
        """``capacity`` is the most entries that are added to find out how many fit; 0 does not try."""
        self._connection = connection
        self._device: Device = connection.channel.device()
        self._plan = plan
        self._says = says
        self._capacity = capacity
        self._progress = progress

    async def run(self) -> list[Finding]:
        """Make every experiment; raises ChannelError, and leaves nothing behind."""
        steps: tuple[tuple[str, Callable[[], Awaitable[Iterable[Finding]]]], ...] = (
            ("tables", self._tables),
            ("matches", self._matches),
            ("fields that can be set", self._fields),
            ("actions", self._actions),
            ("bundle", self._bundle),
            ("barrier", self._barrier),
            ("hairpin", self._reflects),
            ("roles", self._roles),
            ("capacity", self._fits),
        )
        findings: list[Finding] = []
        for number, (text, experiment) in enumerate(steps, start=1):
            await self._progress({"kind": "probe", "step": number, "of": len(steps), "text": text})
            async with self._alone():
                findings += await experiment()
        return findings

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._connection.lock:
            try:
                yield
            finally:
                await self._sweep()

    async def _sweep(self) -> None:
        """Take everything away and make sure of it."""
        channel = self._connection.channel
        try:
            if await self._heeds_masks():
                await self._device.sweep(COOKIE, COOKIE_MASK)
        except ChannelError as error:
            _log.info("%s: no deletion by cookie: %s", self._connection.name, error)  # then one by one
        left = [one.entry for one in await self._read()]
        await self._device.attempt([FlowChange("-", entry) for entry in left])
        groups = [one for one in (await channel.read_groups()).groups if one.group == GROUP]
        meters = [one for one in (await channel.read_meters()).meters if one.meter == METER]
        gone: list[Change] = [GroupChange("-", one) for one in groups]
        gone += [MeterChange("-", one) for one in meters]
        if gone:
            await self._device.attempt(gone)
        if left and await self._read():
            # What it knows is not true any more: the next look finds them, and deletes them once more.
            self._connection.known = None
            raise ChannelError(f"{self._connection.name} does not delete the entries of the probe")

    async def _heeds_masks(self) -> bool:
        """Tell whether a mask on cookies is heeded: else a deletion by it takes the entries of everybody."""
        reading = await self._connection.channel.read_flows(COOKIE, COOKIE_MASK)
        return not reading.foreign and all(_is_of_probe(one) for one in reading.entries)

    async def _try(self, trial: Trial) -> str | None:
        """Try one entry; returns why it did not work, None if the switch holds it as it was sent."""
        changes: list[Change] = []
        if trial.group is not None:
            changes.append(GroupChange("+", trial.group))
        if trial.meter is not None:
            changes.append(MeterChange("+", trial.meter))
        changes.append(FlowChange("+", trial.entry))
        refused = await self._device.attempt(changes)
        held = [one.entry for one in (await self._read())]
        await self._device.attempt([FlowChange("-", trial.entry)])
        if refused:
            return next(iter(refused.values()))
        return None if trial.entry in held else "accepted, and not held as it was sent"

    async def _read(self) -> list[CountedEntry]:
        reading = await self._connection.channel.read_flows(COOKIE, COOKIE_MASK)
        return [one for one in reading.entries if _is_of_probe(one)]

    async def _tried(self, trials: Iterable[Trial]) -> Mapping[str, str | None]:
        return {trial.name: await self._try(trial) for trial in trials}

    # Experiments

    async def _tables(self) -> Iterable[Finding]:
        count = await self._device.tables()
        last = self._plan.numbered(0)
        entry = FlowEntry(count - 1, last.priority, last.match, last.actions, last.cookie)
        wrong = await self._try(Trial("the last table", entry))
        detail = "" if wrong is None else f"the last one takes no entry: {wrong}"
        return [Finding("tables", str(self._says.tables), str(count), detail)]

    async def _matches(self) -> Iterable[Finding]:
        says = {
            "tcp_flags": _word(self._says.tcp_flags),
            "ip_frag": _word(self._says.fragments),
            "IPv6 prefix": _word(self._says.ipv6),
        }
        tried = await self._tried(self._plan.matches())
        return [Finding(f"match: {name}", says.get(name), _word(why is None), why or "") for name, why in tried.items()]

    async def _fields(self) -> Iterable[Finding]:
        tried = await self._tried(self._plan.fields())
        refused = {name: why for name, why in tried.items() if why is not None}
        able = [name for name in tried if name not in refused]
        found = [Finding("set fields", None, f"{len(able)} of {len(tried)}", ", ".join(able))]
        return found + [Finding(f"set: {name}", None, "no", why) for name, why in refused.items()]

    async def _actions(self) -> Iterable[Finding]:
        says = {
            "push_vlan": _word(self._says.push_vlan),
            "fast-failover group": _word(self._says.groups),
            "learn": _word(self._says.learns),
            "goto": _word(self._says.tables > 1),
        }
        tried = await self._tried(self._plan.actions())
        return [Finding(name, says.get(name), _word(why is None), why or "") for name, why in tried.items()]

    async def _bundle(self) -> Iterable[Finding]:
        entries = [self._plan.numbered(number) for number in range(3)]
        why = ""
        try:
            await self._connection.channel.apply([FlowChange("+", entry) for entry in entries])
            held = [one.entry for one in await self._read()]
            if not all(entry in held for entry in entries):
                why = "accepted, and not all of it is held"
        except ChannelError as error:
            why = str(error)
        return [Finding("atomic bundle", _word(self._says.atomic_bundle), _word(not why), why)]

    async def _barrier(self) -> Iterable[Finding]:
        """A packet right after the answer to a barrier must meet what stood before the barrier."""
        says = _word(self._says.reliable_barrier)
        if self._plan.port is None:
            return [Finding("barrier", says, "unknown", "no port of ours is up to send a packet from")]
        met = missed = 0
        for number in range(ROUNDS):
            entry = self._plan.numbered(number)
            under = FlowEntry(entry.table, BELOW, entry.match, (), COOKIE)
            await self._device.attempt([FlowChange("+", under), FlowChange("+", entry)])
            await self._device.inject(self._plan.port, self._plan.frame(number), 1)
            await self._device.attempt([FlowChange("-", entry)])
            await self._device.inject(self._plan.port, self._plan.frame(number), 1)
        for one in await self._read():
            if one.entry.priority == BELOW:
                met, missed = met + (one.packets == 1), missed + (one.packets != 1)
        detail = f"{met} of {ROUNDS} packets met the tables as they were after an addition and a deletion"
        if not met + missed:
            return [Finding("barrier", says, "unknown", "the entries of the experiment are not held")]
        return [Finding("barrier", says, _word(met == ROUNDS), detail)]

    async def _reflects(self) -> Iterable[Finding]:
        port = self._plan.port
        if port is None:
            return [Finding("reflects", self._says.reflects, "unknown", "no port of ours is up to send a packet from")]
        ways = {
            "output to IN_PORT": (OutputInPort(),),
            "output after in_port is cleared": (ClearInPort(), Output(port)),
        }
        details, answers = [], []
        for number, (name, actions) in enumerate(ways.items()):
            answer, detail = await self._reflects_by(port, number, self._plan.numbered(number, *actions))
            answers.append(answer)
            details.append(f"{name}: {answer} ({detail})")
        found: Answer = "yes" if "yes" in answers else "unknown" if "unknown" in answers else "no"
        return [Finding("reflects", self._says.reflects, found, "; ".join(details))]

    async def _reflects_by(self, port: int, number: int, entry: FlowEntry) -> tuple[Answer, str]:
        if refused := await self._device.attempt([FlowChange("+", entry)]):
            return "no", next(iter(refused.values()))
        noise = await self._sent(port)
        await asyncio.sleep(LISTEN_SECONDS)
        before = await self._sent(port)
        noise = before - noise
        await self._device.inject(port, self._plan.frame(number), PACKETS)
        sent, waited = 0, 0.0
        while sent < PACKETS and waited < SEE_SECONDS:
            await asyncio.sleep(LOOK_SECONDS)
            waited += LOOK_SECONDS
            sent = await self._sent(port) - before
        hit = next((one.packets for one in await self._read() if one.entry == entry), 0)
        detail = f"{hit} of {PACKETS} packets met the entry, port {port} sent {sent}"
        if hit < PACKETS:
            return "unknown", f"{detail}: packets of the controller do not go through the table"
        # Other traffic goes on meanwhile: as much as was seen before, at the longest for the whole wait.
        others = noise * waited / LISTEN_SECONDS
        if sent >= PACKETS and others < PACKETS / 2:
            return "yes", detail
        return ("no", detail) if sent <= others + PACKETS / 10 else ("unknown", f"{detail}, with other traffic")

    async def _sent(self, port: int) -> int:
        counters = await self._connection.channel.read_port_counters()
        return next((one.tx_packets for one in counters if one.number == port), 0)

    async def _roles(self) -> Iterable[Finding]:
        now = await self._device.ask_role()
        if now.refusal is not None:
            return [Finding("roles", None, "no", now.refusal)]
        answers = Finding("roles", None, "yes", "it answers")
        if now.role != "master" or not now.generation:
            why = f"this connection is {now.role}, generation {now.generation}: a stale one cannot be tried"
            return [answers, Finding("stale generation refused", None, "unknown", why)]
        stale = await self._device.try_master(now.generation - 1)
        if stale.refusal is None:
            await self._device.try_master(now.generation)  # as it was
        detail = stale.refusal or f"MASTER was granted under {now.generation - 1} after {now.generation}"
        return [answers, Finding("stale generation refused", None, _word(stale.refusal is not None), detail)]

    async def _fits(self) -> Iterable[Finding]:
        """Add entries until one is refused, at most as many as was said."""
        held = len(self._connection.known.entries) if self._connection.known is not None else 0
        added = 0
        while added < self._capacity:
            count = min(BATCH, self._capacity - added)
            batch = [FlowChange("+", self._plan.numbered(added + number)) for number in range(count)]
            refused = await self._device.attempt(batch)
            added += count - len(refused)
            if refused:
                why = next(iter(refused.values()))
                return [Finding("capacity", None, str(held + added), f"{added} more beside {held}, then: {why}")]
            await self._progress({"kind": "probe", "text": f"{added} entries fit"})
        read = len(await self._read())
        if read < added:
            return [Finding("capacity", None, str(held + read), f"{added} were accepted, {read} are held")]
        if not added:
            return []
        return [Finding("capacity", None, f"at least {held + added}", f"{added} more beside {held}, none refused")]


def _is_of_probe(one: CountedEntry) -> bool:
    return one.entry.cookie & COOKIE_MASK == COOKIE & COOKIE_MASK


def _word(value: bool) -> Answer:
    return "yes" if value else "no"


def inventory_lines(findings: Iterable[Finding]) -> Json:
    """Return what the inventory should say of the switch now."""
    return {one.capability: one.found for one in findings if one.capability == "reflects" and one.found != "unknown"}

