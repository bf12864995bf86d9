# SPDX-License-Identifier: AGPL-3.0-or-later
"""Keeps every switch as the intent says: applies differences, reads back, finds and repairs drift.

One ``SwitchConnection`` (``connection.py``) for each connected switch.  It knows what the switch holds (from reading
it), so what it sends is a difference, and a switch that is right is sent nothing.  After any failure it forgets and
reads again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

from controller.changes import Change
from controller.channel import Channel, ChannelError, FlowReading, Role
from controller.compiler import Compilation
from controller.connection import NAMED_DIFFERENCES, SwitchConnection
from controller.counters import Tally
from controller.flows import TableSet
from controller.portwatch import PortWatch
from controller.rerouting import Rerouting
from controller.rounds import Round, rounds
from controller.tenure import Tenure

_log = logging.getLogger(__name__)
Publish = Callable[[str, Mapping[str, Any]], None]
#: Something that goes on as long as a switch is connected.
Companion = Callable[[str, Channel], Coroutine[Any, Any, None]]

#: How long a switch that could not be brought to its intent is left alone before the next try.
RETRY_SECONDS = 2.0
#: How long the same reason to refuse a connection is not told again.
REFUSED_AGAIN_SECONDS = 60.0
#: How often an update is begun because another controller took a switch, without being its leader, or one was lost.
TRIES = 2


class Update:
    """One update of several switches, whose locks are held: the rounds of ``controller/rounds.py``.

    A round in which a switch of the intent fails is the last one: the next could let in what that switch does not
    deliver yet.  One that leaves the inventory delivers nothing any more: the others go on without it.
    """

    def __init__(self, connections: Mapping[str, SwitchConnection], target: Compilation) -> None:
        self._connections = connections
        self._target = target
        self._failed: dict[str, str] = {}
        self._made: dict[str, list[Change]] = {}

    async def run(self) -> dict[str, str]:
        """Carry it out and read back; returns what failed, by switch."""
        await self._everywhere(self._connections, lambda name: self._connections[name].ensure_known())
        ready = [name for name in self._connections if name not in self._failed]
        before = {name: await self._connections[name].ensure_known() for name in ready}
        for changes in rounds(before, self._target.tables, self._target.is_egress, self._target.ending):
            await self._everywhere(self._unfailed(changes), partial(self._apply, changes))
            if self._failed.keys() & changes.keys() & self._target.tables.keys():
                for name in self._made:  # nothing was read back: the next try looks first
                    self._connections[name].known = None
                return self._failed
        await self._everywhere(self._unfailed(ready), self._confirm)
        await self._everywhere(self._unfailed(ready), self._set_ports)
        return self._failed

    def _unfailed(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in self._failed]

    async def _set_ports(self, name: str) -> None:
        inventory = self._target.intent.inventory
        if inventory is not None and name in inventory.switches:
            await self._connections[name].set_ports(inventory.switches[name], inventory.station_ports(name))

    async def _apply(self, changes: Round, name: str) -> None:
        self._made.setdefault(name, []).extend(changes[name])
        await self._connections[name].apply(changes[name])

    async def _confirm(self, name: str) -> None:
        wanted = self._target.tables.get(name, TableSet())
        await self._connections[name].confirm(self._made.get(name, ()), wanted)

    async def _everywhere(self, names: Iterable[str], work: Callable[[str], Awaitable[object]]) -> None:
        """Do something on several switches at once and note what failed."""

        async def attempt(name: str) -> None:
            try:
                await work(name)
            except ChannelError as error:
                self._failed[name] = str(error)

        await asyncio.gather(*(attempt(name) for name in names))


class Switches:
    """All switches of the inventory, connected or not, and those that connect before the inventory names them."""

    def __init__(
        self, target: Callable[[], Compilation], publish: Publish, tenure: Tenure, *, verify_seconds: float
    ) -> None:
        self._tenure = tenure
        self._publish = publish
        self._verify_seconds = verify_seconds
        self.tally = Tally()
        self.ports = PortWatch(lambda: target().intent.inventory, publish)
        rerouting = Rerouting(target, self.ports.down, self.bring_all)
        self._target = rerouting.target
        self.ports.subscribe(rerouting.changed)
        self.companions: list[Companion] = []
        self._connections: dict[str, SwitchConnection] = {}
        self._foreign: dict[str, int] = {}  # what was last told of foreign entries, by switch
        self._refused: dict[str, float] = {}  # when a reason was last told
        self._arrived = asyncio.Event()  # a switch connected
        self._updating = asyncio.Lock()  # one update over all switches at a time

    @property
    def target(self) -> Compilation:
        """What the switches have to hold now."""
        return self._target()

    def connection(self, name: str) -> SwitchConnection | None:
        """Return the connection to a switch, if it is connected with the datapath id that the inventory gives it."""
        connection = self._connections.get(name)
        if connection is None or self._wrong_identity(connection, self._target()) is not None:
            return None
        return connection

    def missing(self, compilation: Compilation) -> dict[str, str]:
        """Return the switches of an intent that cannot be reached, each with the reason.

        One in maintenance may be away, or another one by now: nothing goes over it.
        """
        found = {}
        for name in compilation.tables:
            connection = self._connections.get(name)
            if compilation.in_maintenance(name):
                continue
            if connection is None:
                found[name] = f"switch {name} is not connected"
            elif (reason := self._wrong_identity(connection, compilation)) is not None:
                found[name] = reason
        return found

    async def wait_for(self, compilation: Compilation, seconds: float) -> dict[str, str]:
        """Wait until all switches of an intent are there, at most ``seconds``; returns what ``missing`` then says."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.missing(compilation):
                    self._arrived.clear()
                    await self._arrived.wait()
        return self.missing(compilation)

    @staticmethod
    def _wrong_identity(connection: SwitchConnection, compilation: Compilation) -> str | None:
        inventory = compilation.intent.inventory
        declared = None if inventory is None else inventory.switches.get(connection.name)
        if declared is None or declared.datapath_id == connection.channel.datapath_id:
            return None
        return (
            f"switch {connection.name} says that its datapath id is {connection.channel.datapath_id:016x}; "
            f"the inventory says {declared.datapath_id:016x}"
        )

    async def connected(self, name: str, channel: Channel) -> None:
        """Take over a switch that shook hands; serves it until the connection ends."""
        connection = SwitchConnection(name, channel, self._count)
        if (wrong := self._wrong_identity(connection, self._target())) is not None:
            self.refused(channel.address, wrong)
            channel.close(wrong)
            return
        if (older := self._connections.get(name)) is not None:
            older.channel.close(f"{name} connected again")
        self._connections[name] = connection
        self._arrived.set()
        _log.info("switch %s connected from %s, datapath id %016x", name, channel.address, channel.datapath_id)
        data = {"switch": name, "datapathId": f"{channel.datapath_id:016x}", "address": channel.address}
        self._publish("switch.connected", data)
        works = [self._keep(connection), *(self._accompany(connection, one) for one in self.companions)]
        keepers = [asyncio.create_task(work, name=f"switch {name}") for work in works]
        for keeper in keepers:
            keeper.add_done_callback(lambda task: self._keeper_ended(connection, task))
        try:
            reason = await channel.closed()
            if self._connections.get(name) is connection:
                _log.warning("switch %s lost: %s", name, reason)
                self._publish("switch.lost", {"switch": name, "reason": reason})
        finally:
            for keeper in keepers:
                keeper.cancel()
            if self._connections.get(name) is connection:
                del self._connections[name]

    @staticmethod
    async def _accompany(connection: SwitchConnection, companion: Companion) -> None:
        """Run what serves each connected switch, once we have a role there."""
        await connection.stood.wait()
        await companion(connection.name, connection.channel)

    @staticmethod
    def _keeper_ended(connection: SwitchConnection, task: asyncio.Task[None]) -> None:
        """A switch that nobody looks after must not stay: it connects again."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("switch %s: the controller failed", connection.name, exc_info=error)
            connection.channel.close(f"the controller failed: {type(error).__name__}: {error}")

    def refused(self, address: str, reason: str) -> None:
        """Tell that a connection was turned away; a switch tries again every second, which is told once in a while."""
        now = time.monotonic()
        self._refused = {told: when for told, when in self._refused.items() if now - when < REFUSED_AGAIN_SECONDS}
        if reason not in self._refused:
            self._refused[reason] = now
            _log.warning("connection from %s refused: %s", address, reason)
            self._publish("switch.refused", {"address": address, "reason": reason})

    def _count(self, name: str, reading: FlowReading) -> None:
        self.tally.add(name, reading.entries, self._target())

    def _tables(self, name: str) -> TableSet:
        return self._target().tables.get(name, TableSet())

    async def _keep(self, connection: SwitchConnection) -> None:
        """Bring a switch to its intent after it connected, then look at it again and again."""
        first = True
        while True:
            pause = self._verify_seconds
            try:
                if first:
                    await self.ports.follow(connection.name, connection.channel)
                else:
                    self.ports.tell(connection.name)  # the inventory may name others since
                async with connection.lock:
                    await self._take_role(connection)
                # Before the inventory names it nothing is known of this switch: it may not be ours to change.
                if connection.name in self._target().tables:
                    await self._inspect(connection, first)
                    first = False
                elif connection.inspected:
                    await self._mend(connection)  # what failed when it left the inventory
            except ChannelError as error:
                _log.warning("switch %s: %s", connection.name, error)
                pause = RETRY_SECONDS
            await asyncio.sleep(pause)

    async def _inspect(self, connection: SwitchConnection, first: bool) -> None:
        name = connection.name
        if (wrong := self._wrong_identity(connection, self._target())) is not None:
            self.refused(connection.channel.address, wrong)
            connection.channel.close(wrong)
            return
        connection.channel.delivery = self._target().delivery(name)
        drift = await connection.verify(lambda: self._tables(name))
        if connection.role is not Role.MASTER:
            return  # the leader repairs it, and tells it
        await self._mend(connection)
        inventory = self._target().intent.inventory
        if inventory is not None and name in inventory.switches:  # it may have left it meanwhile
            await connection.set_ports(inventory.switches[name], inventory.station_ports(name))
        if drift.count or drift.foreign != self._foreign.get(name, 0):
            self._foreign[name] = drift.foreign
            data = {
                "switch": name,
                "when": "connect" if first else "background",
                "missing": len(drift.lost),
                "unexpected": len(drift.extra),
                "foreign": drift.foreign,
                "examples": drift.examples(NAMED_DIFFERENCES),
                "repaired": True,
            }
            _log.warning("switch %s drifted: %s", name, data)
            self._publish("switch.drift", data)

    async def _mend(self, connection: SwitchConnection) -> None:
        """Bring a switch that was looked at to the intent, if it is not there.  Raises ChannelError.

        Alone where all others hold the same intent, so that it waits for none of them; else in rounds over all.
        """
        if self._holds(connection, self._target()):
            return
        async with self._updating:
            target = self._target()
            if connection.is_master(self._tenure) and self._are_others_right(connection, target):
                await connection.bring_to(lambda: target.tables.get(connection.name, TableSet()))
                return
        failed = await self.bring_all()
        if failed and not self._holds(connection, self._target()):
            raise ChannelError("; ".join(failed.values()))

    @staticmethod
    def _holds(connection: SwitchConnection, target: Compilation) -> bool:
        return connection.confirmed == target.tables.get(connection.name, TableSet())

    def _are_others_right(self, connection: SwitchConnection, target: Compilation) -> bool:
        """Tell whether every other connected switch holds an intent: an update would change this one alone."""
        others = (one for one in self._connections.values() if one is not connection)
        return all(self._holds(one, target) for one in others if one.inspected or one.name in target.tables)

    async def _take_role(self, connection: SwitchConnection) -> None:
        """Ask for our role, and tell it if it is another than before.  Only under its lock.  Raises ChannelError."""
        reason = await connection.take_role(self._tenure)
        if reason is not None and connection.role is not None:
            role, generation = connection.role.value, self._tenure.generation
            _log.info("switch %s: %s under generation %d (%s)", connection.name, role, generation, reason)
            data = {"switch": connection.name, "role": role, "generation": generation, "reason": reason}
            self._publish("switch.role", data)

    async def stand_all(self) -> None:
        """Ask every switch for the role that is ours now; one that fails is asked again when it is looked at."""

        async def stand(connection: SwitchConnection) -> None:
            try:
                async with connection.lock:
                    await self._take_role(connection)
            except ChannelError as error:
                _log.warning("switch %s: %s", connection.name, error)

        await asyncio.gather(*(stand(connection) for connection in self._connections.values()))

    async def bring_all(self) -> dict[str, str]:
        """Bring every connected switch to the intent, round by round; returns what failed, by switch.

        A switch that the intent no longer has loses our entries, as far as it is connected.  Who does not lead, or is
        told meanwhile that another one does, leaves all of it to that one, and nothing failed.
        """
        failed: dict[str, str] = {}
        for _ in range(TRIES):
            if not self._tenure.leads():
                return {}
            failed, interrupted = await self._bring_all()
            if not interrupted:
                break
        return failed if self._tenure.leads() else {}

    async def _bring_all(self) -> tuple[dict[str, str], bool]:
        """Return what failed, and whether that may have been the end of a try only.

        Somebody took a switch from us meanwhile, and the switch says by what right.  Or one was lost: the others go on
        without it, as they would if it had been away before.
        """
        async with self._updating, contextlib.AsyncExitStack() as locks:
            wanted = self._target().tables.keys()
            there = {name: connection for name in sorted(wanted) if (connection := self.connection(name)) is not None}
            failed = {name: reason for name, reason in self.missing(self._target()).items() if name not in there}
            there |= {name: one for name, one in self._connections.items() if name not in wanted and one.inspected}
            for name, connection in there.items():
                await locks.enter_async_context(connection.lock)
                if name in wanted:
                    connection.channel.delivery = self._target().delivery(name)
            failed |= await self._become_master(there)
            ours = {name: one for name, one in there.items() if one.is_master(self._tenure)}
            failed |= await Update(ours, self._target()).run()
            taken = any(one.role is None for one in ours.values())
            lost = any(name in failed and self._connections.get(name) is not one for name, one in ours.items())
        return {name: reason for name, reason in failed.items() if name in wanted}, taken or lost

    async def _become_master(self, connections: Mapping[str, SwitchConnection]) -> dict[str, str]:
        """Take the role where we do not have it yet; returns what failed, by switch."""

        async def become(name: str, connection: SwitchConnection) -> tuple[str, str | None]:
            try:
                if not connection.is_master(self._tenure):
                    await self._take_role(connection)
            except ChannelError as error:
                return name, str(error)
            return name, None

        answers = await asyncio.gather(*(become(name, one) for name, one in connections.items()))
        return {name: reason for name, reason in answers if reason is not None}

    def reach(self) -> int:
        """Return how many switches of the intent are connected."""
        return sum(self.connection(name) is not None for name in self._target().tables)

    def report(self) -> dict[str, Any]:
        """Return the state of each switch as in the controller's observation."""
        compilation = self._target()
        found = {}
        for name in sorted(compilation.tables):
            connection = self.connection(name)
            known = connection.known if connection is not None else None
            verified = connection.last_verified if connection is not None else None
            found[name] = {
                "connected": connection is not None,
                "role": connection.role.value if connection is not None and connection.role else None,
                "entries": len(known.entries) if known else 0,
                "groups": len(known.groups) if known else 0,
                "capacity": compilation.capacity(name),
                "foreign": connection.foreign if connection else 0,
                "drift": connection.drift if connection else 0,
                "lastVerified": verified.isoformat().replace("+00:00", "Z") if verified else None,
            }
        return found
