# SPDX-License-Identifier: AGPL-3.0-or-later
"""Shows that what the platform declares is open and that everything else is closed.

Two kinds of evidence. Ordinary TCP connections, made from inside the nodes' own network namespaces, for what people
expect to see; and the whole matrix of `matrix.py` as raw frames with tokens, judged where they arrive.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from odyssey.demo import matrix, netns, web
from odyssey.demo.matrix import FrameProbe, Rule, Station
from odyssey.demo.sniffer import Sniffer, Tap, new_run

BURST = 48  # frames sent without a pause: fewer than a switch port's queue holds
PAUSE = 0.003  # s between bursts
SILENCE = 0.25  # s without any arrival after which the run is over
LONGEST = 3.0  # s
CONTROL_ROUNDS = 3  # a declared frame that was lost on the way is sent again this often
ALLOWED_TIMEOUT = 4.0  # s; covers a lost SYN (sent again after 1 s, then 2 s)
DENIED_TIMEOUT = 1.5  # s; covers one SYN sent again


@dataclass(frozen=True, slots=True)
class Leak:
    """Something undeclared that got through, and where it came out."""

    kind: str
    text: str
    places: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}, seen at {', '.join(self.places)}"


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What the probes found. `denied` counts the undeclared attempts by kind."""

    allowed_ok: int
    allowed_failed: tuple[str, ...]
    denied: Mapping[str, int] = field(default_factory=dict)
    leaks: tuple[Leak, ...] = ()
    controls: int = 0
    controls_unseen: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Did the probes prove that they can see an arrival? Without that, no leak means nothing."""
        return self.controls > 0 and not self.controls_unseen

    @property
    def holds(self) -> bool:
        """Everything declared is open, nothing else is, and the probes could tell."""
        return self.sound and not self.allowed_failed and not self.leaks


async def check(
    stations: Sequence[Station], rules: Sequence[Rule], taps: Iterable[Tap], *, fabric_mac: str, tags: Sequence[int]
) -> PolicyResult:
    """Run both kinds of probe. `taps` are further interfaces (the hosts') on which nothing undeclared may arrive."""
    failed, connected = await connect_declared(stations, rules)
    opened = await connect_undeclared(stations, rules)
    frames = await send_matrix(stations, rules, taps, fabric_mac=fabric_mac, tags=tags)
    denied = Counter(frames.denied)
    denied["connection"] = opened[0]
    return PolicyResult(
        allowed_ok=connected,
        allowed_failed=failed,
        denied=dict(denied),
        leaks=opened[1] + frames.leaks,
        controls=frames.controls,
        controls_unseen=frames.controls_unseen,
    )


async def connect_declared(stations: Sequence[Station], rules: Sequence[Rule]) -> tuple[tuple[str, ...], int]:
    """Connect over every declared TCP path; returns what failed and how many succeeded."""

    async def attempt(source: Station, target: Station, port: int) -> str | None:
        try:
            (await web.connect(source.namespace, target.address, port, ALLOWED_TIMEOUT)).close()
        except (OSError, TimeoutError) as error:
            return f"{source.name} -> {target.name}:{port}: {error or 'no answer'}"
        return None

    paths = [
        (source, target, rule.port)
        for source, target in permutations(stations, 2)
        for rule in rules
        if rule.protocol == "tcp" and matrix.declared(source, target, "tcp", rule.port, [rule])
    ]
    outcomes = await asyncio.gather(*(attempt(*path) for path in paths))
    failed = tuple(outcome for outcome in outcomes if outcome is not None)
    return failed, len(paths) - len(failed)


async def connect_undeclared(stations: Sequence[Station], rules: Sequence[Rule]) -> tuple[int, tuple[Leak, ...]]:
    """Try every service port of every station that the source may not reach; returns how many, and what answered.

    A refusal is a leak too: the connection request arrived.
    """

    async def attempt(source: Station, target: Station, port: int) -> Leak | None:
        text = f"{source.name} -> {target.name}:{port}"
        try:
            (await web.connect(source.namespace, target.address, port, DENIED_TIMEOUT)).close()
        except ConnectionRefusedError:
            return Leak("connection", f"{text} was refused by the target", (target.name,))
        except (OSError, TimeoutError):
            return None
        return Leak("connection", f"{text} was accepted", (target.name,))

    services = {(rule.target, rule.port) for rule in rules if rule.protocol == "tcp"}
    paths = [
        (source, target, port)
        for source, target in permutations(stations, 2)
        for network, port in sorted(services)
        if network == target.network and not matrix.declared(source, target, "tcp", port, rules)
    ]
    outcomes = await asyncio.gather(*(attempt(*path) for path in paths))
    return len(paths), tuple(outcome for outcome in outcomes if outcome is not None)


async def send_matrix(
    stations: Sequence[Station], rules: Sequence[Rule], taps: Iterable[Tap], *, fabric_mac: str, tags: Sequence[int]
) -> PolicyResult:
    """Send every frame of the matrix and judge each where it arrives (or does not)."""
    run = new_run()
    probes = matrix.probes(stations, rules, fabric_mac=fabric_mac, tags=tags, run=run)
    own = [Tap(station.name, station.namespace, nic) for station in stations for nic in station.nics]
    controls = [probe for probe in probes if probe.control]
    with Senders(stations) as senders:
        async with Sniffer([*own, *taps]) as sniffer:
            await senders.send(probes)
            await sniffer.quiet(SILENCE, LONGEST)
            for _ in range(CONTROL_ROUNDS - 1):
                missing = [probe for probe in controls if probe.number not in sniffer.seen(run)]
                if not missing:
                    break
                await senders.send(missing)
                await sniffer.quiet(SILENCE, LONGEST)
            seen = sniffer.seen(run)
    return _judge(probes, seen)


def _judge(probes: Sequence[FrameProbe], seen: Mapping[int, frozenset[str]]) -> PolicyResult:
    leaks: list[Leak] = []
    for probe in probes:
        places = seen.get(probe.number, frozenset())
        if probe.echoed:
            places -= {probe.source.name}
        if places and not probe.control:
            leaks.append(Leak(probe.kind, f"{probe.text} through {probe.nic}", tuple(sorted(places))))
    controls = [probe for probe in probes if probe.control]
    return PolicyResult(
        allowed_ok=0,
        allowed_failed=(),
        denied=Counter(probe.kind for probe in probes if not probe.control),
        leaks=tuple(leaks),
        controls=len(controls),
        controls_unseen=tuple(f"{probe.text} through {probe.nic}" for probe in controls if probe.number not in seen),
    )


class Senders:
    """Packet sockets on every interface of the stations, for sending frames as they are."""

    def __init__(self, stations: Iterable[Station]) -> None:
        self._sockets: dict[tuple[str, str], socket.socket] = {}
        self._stations = tuple(stations)

    def __enter__(self) -> Senders:
        for station in self._stations:
            for nic in station.nics:
                # Protocol 0: a socket that only sends; nothing is delivered to it.
                opened = netns.open_socket(station.namespace, socket.AF_PACKET, socket.SOCK_RAW)
                self._sockets[station.name, nic] = opened
                opened.bind((nic, 0))
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._sockets.values():
            opened.close()

    async def send(self, probes: Sequence[FrameProbe]) -> None:
        """Send the frames in bursts, so that none is lost in a queue on the way and taken for denied."""
        for start in range(0, len(probes), BURST):
            for probe in probes[start : start + BURST]:
                await self._send_one(self._sockets[probe.source.name, probe.nic], probe.frame)
            await asyncio.sleep(PAUSE)

    async def _send_one(self, opened: socket.socket, frame: bytes) -> None:
        for _ in range(100):
            try:
                opened.send(frame)
                return
            except BlockingIOError:
                await asyncio.sleep(PAUSE)
        opened.send(frame)
