# SPDX-License-Identifier: AGPL-3.0-or-later
"""Stops every daemon, empties all caches, pulls a cable, and shows that traffic flows; then that nothing was changed.

What is emptied: the neighbour caches of the border's client and of every node (permanent entries are configuration and
stay), and the switches' caches of flows that they have seen. So each pair meets as if it had never spoken.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from odyssey.demo import observe, policy
from odyssey.demo.load import Counts, Load
from odyssey.demo.matrix import Station
from odyssey.demo.world import BORDER, Note, World, WorldError, quiet

BEFORE_CABLE, CABLE_OUT, CABLE_IN = "all cables", "cable pulled", "cable back"
REQUESTS_EACH = 60  # requests that must be answered in each of the three phases
RATE = 60.0  # requests each second
COMMAND_TIMEOUT = 10.0  # s


@dataclass(frozen=True, slots=True)
class HeadlessResult:
    """What happened without daemons. `changed` tells what was not as before when they were back."""

    counts: Counts
    pairs_ok: int
    pairs_failed: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """Containers (with the time of their start) and flow entries at one moment (monotonic, s)."""

    moment: float
    containers: frozenset[tuple[str, str, str]]
    rules: frozenset[tuple[str, int, str]]
    youngest: float

    def differences(self, later: Picture) -> tuple[str, ...]:
        """What changed between this moment and a later one."""
        found = [f"container {name} on {host} is gone" for host, name, _ in self._lost(later)]
        found += [f"container {name} on {host} is new or was started again" for host, name, _ in later._lost(self)]
        found += [f"{switch}: entry is gone: {rule}" for switch, _, rule in self.rules - later.rules]
        found += [f"{switch}: entry is new: {rule}" for switch, _, rule in later.rules - self.rules]
        between = later.moment - self.moment
        if not found and later.youngest < between:
            found.append(
                f"an entry was written again: it is {later.youngest:.1f} s old, and {between:.1f} s have passed"
            )
        return tuple(found)

    def _lost(self, later: Picture) -> frozenset[tuple[str, str, str]]:
        return self.containers - later.containers


async def picture(world: World) -> Picture:
    """Containers and flow entries as they are now."""
    containers, flows = await world.node_containers(), await world.flows()
    return Picture(
        moment=time.monotonic(),
        containers=frozenset((item.host, f"{item.name} {item.id[:12]}", item.started) for item in containers),
        rules=observe.rules(flows),
        youngest=min((flow.age for flow in flows), default=0.0),
    )


async def run(world: World, urls: Sequence[str], fields: Sequence[str], note: Note = quiet) -> HeadlessResult:
    """The whole of it. The daemons are started again whatever happens. Raises `WorldError` or `LoadError`."""
    stations = await world.stations()
    before = await picture(world)
    await world.stop(*world.daemons)
    try:
        await flush(world, stations)
        note("no daemon runs, caches are empty")
        failed, connected = await policy.connect_declared(stations, world.rules)
        await flush(world, stations)
        counts = await _through_a_pulled_cable(world, stations, urls, fields, note)
    finally:
        await world.start(*world.daemons)
    note("the daemons are back")
    await world.settled()
    changed = before.differences(await picture(world))
    return HeadlessResult(counts, connected, failed, changed + await world.half_done())


async def _through_a_pulled_cable(
    world: World, stations: Sequence[Station], urls: Sequence[str], fields: Sequence[str], note: Note
) -> Counts:
    host = _loaded_host(stations, world)
    async with Load(world.lab.netns("edge"), urls, rate=RATE, fields=fields) as load:
        await load.phase(BEFORE_CABLE)
        await load.reaches(BEFORE_CABLE, REQUESTS_EACH)
        await asyncio.to_thread(world.lab.pull_cable, host, 0)
        note(f"the first cable of {host} is pulled")
        try:
            await load.phase(CABLE_OUT)
            await load.reaches(CABLE_OUT, REQUESTS_EACH)
        finally:
            await asyncio.to_thread(world.lab.plug_cable, host, 0)
        note(f"the first cable of {host} is back")
        await load.phase(CABLE_IN)
        await load.reaches(CABLE_IN, REQUESTS_EACH)
        return await load.finish()


def _loaded_host(stations: Sequence[Station], world: World) -> str:
    """The host of the node that the border talks to: all requests pass its cable."""
    exposed = {rule.target for rule in world.rules if rule.source == BORDER}
    for station in stations:
        if station.network in exposed and station.admitted and station.host is not None:
            return station.host
    raise WorldError(f"no node of {sorted(exposed)} is admitted")


async def flush(world: World, stations: Sequence[Station]) -> None:
    """Empty the neighbour caches of all stations and the switches' caches of seen flows."""
    flushes = [asyncio.to_thread(_flush_neighbours, station.namespace) for station in stations]
    purges = [asyncio.to_thread(_purge_switch, switch.directory) for switch in world.lab.switches.values()]
    await asyncio.gather(*flushes, *purges)


def _flush_neighbours(namespace: Path) -> None:
    # Without a filter `ip neigh flush` refuses; all but permanent entries go.
    _run("nsenter", f"--net={namespace}", "ip", "neigh", "flush", "all")


def _purge_switch(directory: Path) -> None:
    _run("ovs-appctl", f"--target={directory}/ovs-vswitchd.ctl", "revalidator/purge")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    if done.returncode != 0:
        raise WorldError(f"{' '.join(command)} failed: {done.stderr.strip()}")
