# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which frames the fabric must let through and which it must not: the whole matrix, from the platform document.

Pure. For every ordered pair of stations it makes frames of every kind that matters; what the platform declares is
expected to arrive (a *control*: it proves that the probes can see an arrival at all), everything else must not.

One thing is left out, because no switch can tell it apart where frames are untagged: a node that uses both the MAC
and the address of a node on the same host. There the container's missing `CAP_NET_RAW` is what prevents it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, permutations
from pathlib import Path
from typing import Any

from odyssey.demo import frames
from odyssey.demo.frames import ICMP, TCP, UDP

EPHEMERAL = 24001  # a source port below the kernel's own range, so no real connection has it
UNUSED_PORT = 9999  # no network of any example declares it
MULTICAST = ("224.0.0.251", "01:00:5e:00:00:fb")


@dataclass(frozen=True, slots=True)
class Station:
    """A place from which frames are sent and at which they may arrive: a node, or the border's client.

    `network` is the network's name, or the border's. `host` is None for the border. `admitted` is False for a standby.
    """

    name: str
    network: str
    address: str
    mac: str
    namespace: Path
    nics: tuple[str, ...]
    host: str | None
    admitted: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """Declared traffic: connections from one network (or border) to a port of another."""

    source: str
    target: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class FrameProbe:
    """One frame, sent from one network interface of `source`.

    `control`: it is declared, so it must arrive. `echoed`: the switch answers with the same bytes, so what comes back
    to the source itself is no leak (ARP of the border's client).
    """

    number: int
    kind: str
    text: str
    source: Station
    nic: str
    frame: bytes
    control: bool
    echoed: bool = False


@dataclass(frozen=True, slots=True)
class Sketch:
    """A frame before it gets its number and token: everything but the payload."""

    kind: str
    text: str
    source_mac: str
    source: tuple[str, int]
    target: tuple[str, int]
    protocol: int
    destination_mac: str | None = None  # None: the fabric's
    fragment_offset: int = 0
    vlan: int | None = None
    control: bool = False
    echoed: bool = False

    def build(self, fabric_mac: str, mark: bytes) -> bytes:
        """The complete Ethernet frame, with `mark` as its payload."""
        destination = self.destination_mac or fabric_mac
        if self.protocol == 0:  # ARP
            asked = frames.arp_request(self.source_mac, self.source[0], self.target[0], mark)
            return frames.ethernet(self.source_mac, destination, frames.ETH_ARP, asked, vlan=self.vlan)
        if self.protocol == TCP:
            payload = frames.tcp(self.source, self.target, mark)
        elif self.protocol == UDP:
            payload = frames.udp(self.source, self.target, mark)
        else:
            payload = frames.icmp_echo(mark)
        packet = frames.ipv4(
            self.source[0], self.target[0], self.protocol, payload, fragment_offset=self.fragment_offset
        )
        return frames.ethernet(self.source_mac, destination, frames.ETH_IPV4, packet, vlan=self.vlan)


def rules_of(platform: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The declared traffic of a platform document."""
    found: list[Rule] = []
    for name, network in platform["networks"].items():
        pairs = [(name, other, entry) for other, entry in network.get("dependsOn", {}).items()]
        pairs += [(border, name, entry) for border, entry in network.get("exposedTo", {}).items()]
        if "peers" in network:
            pairs.append((name, name, network["peers"]))
        for source, target, entry in pairs:
            found += [Rule(source, target, port["protocol"], port["port"]) for port in entry["ports"]]
    return tuple(found)


def vlans_of(platform: Mapping[str, Any]) -> Mapping[str, int]:
    """Network name to VLAN id."""
    return {name: network["vlan"] for name, network in platform["networks"].items()}


def declared(source: Station, target: Station, protocol: str, port: int, rules: Iterable[Rule]) -> bool:
    """May `source` open a connection (send a datagram) to this port of `target`?"""
    if not (source.admitted and target.admitted):
        return False
    return Rule(source.network, target.network, protocol, port) in tuple(rules)


def _pair(source: Station, target: Station, rules: Sequence[Rule]) -> Iterator[Sketch]:
    """Connections and datagrams between two stations that use their own addresses."""
    standby = not (source.admitted and target.admitted)
    ports = sorted({rule.port for rule in rules} | {UNUSED_PORT})
    for port in ports:
        for protocol, number in (("tcp", TCP), ("udp", UDP)):
            control = declared(source, target, protocol, port, rules)
            kind = "standby" if standby else f"{protocol} to an undeclared port"
            yield Sketch(
                "declared" if control else kind,
                f"{protocol} {source.name} -> {target.name}:{port}",
                source.mac,
                (source.address, EPHEMERAL),
                (target.address, port),
                number,
                control=control,
            )
    own_ports = sorted({rule.port for rule in rules if rule.target == source.network})
    for own in own_ports:
        for port in (*ports, EPHEMERAL, 40000):
            if declared(source, target, "tcp", port, rules):
                continue
            yield Sketch(
                "standby" if standby else "connection from a service port",
                f"tcp {source.name}:{own} -> {target.name}:{port}",
                source.mac,
                (source.address, own),
                (target.address, port),
                TCP,
            )
    yield Sketch(
        "standby" if standby else "ping",
        f"icmp echo {source.name} -> {target.name}",
        source.mac,
        (source.address, 0),
        (target.address, 0),
        ICMP,
    )


def _forged(source: Station, victim: Station, target: Station, rules: Sequence[Rule]) -> Iterator[Sketch]:
    """`source` pretends to be `victim`, towards what the victim may reach; and lends the victim its own address."""
    for rule in rules:
        if rule.target != target.network or rule.source not in (victim.network, source.network):
            continue
        protocol = TCP if rule.protocol == "tcp" else UDP
        disguises = [("its address", source.mac, victim.address)]
        if source.host is not None:  # a border is known by its port and prefix: routers there have any MAC
            disguises.append(("its MAC", victim.mac, source.address))
        if source.host is None or source.host != victim.host:
            disguises.append(("its MAC and address", victim.mac, victim.address))
        for what, mac, address in disguises:
            yield Sketch(
                "forged source",
                f"{source.name} as {victim.name} ({what}) -> {target.name}:{rule.port}",
                mac,
                (address, EPHEMERAL + 1),
                (target.address, rule.port),
                protocol,
            )


def _odd(source: Station, target: Station, rules: Sequence[Rule], tags: Sequence[int]) -> Iterator[Sketch]:
    """Frames that no declaration allows whoever sends them: later fragments, foreign tags, broadcast, multicast."""
    here = (source.address, EPHEMERAL + 2)
    for rule in rules:
        if not declared(source, target, rule.protocol, rule.port, rules):
            continue
        there = (target.address, rule.port)
        text = f"{source.name} -> {target.name}:{rule.port}"
        yield Sketch("later fragment", f"fragment {text}", source.mac, here, there, TCP, fragment_offset=64)
        for tag in tags:
            yield Sketch("VLAN tag", f"tag {tag} {text}", source.mac, here, there, TCP, vlan=tag)


def _to_all(source: Station, others: Sequence[Station]) -> Iterator[Sketch]:
    """Broadcast and multicast: they do not exist in this fabric. (ARP of the border is answered, never passed on.)"""
    here = (source.address, EPHEMERAL + 3)
    yield Sketch("broadcast", f"udp {source.name} -> all", source.mac, here, ("255.255.255.255", UNUSED_PORT), UDP,
                 destination_mac=frames.BROADCAST)  # fmt: skip
    yield Sketch("multicast", f"udp {source.name} -> {MULTICAST[0]}", source.mac, here, (MULTICAST[0], 5353), UDP,
                 destination_mac=MULTICAST[1])  # fmt: skip
    for other in others:
        yield Sketch("broadcast", f"arp {source.name}: who has {other.address}", source.mac, here, (other.address, 0),
                     0, destination_mac=frames.BROADCAST, echoed=source.host is None)  # fmt: skip


def _sketches(
    source: Station, stations: Sequence[Station], rules: Sequence[Rule], tags: Sequence[int]
) -> Iterator[Sketch]:
    others = [station for station in stations if station != source]
    yield from _to_all(source, others)
    for target in others:
        yield from _pair(source, target, rules)
        yield from _odd(source, target, rules, tags)


def probes(
    stations: Sequence[Station], rules: Sequence[Rule], *, fabric_mac: str, tags: Sequence[int], run: int
) -> tuple[FrameProbe, ...]:
    """Every probe for these stations: each frame once through each network interface of its source.

    `tags` are VLAN ids that a node must not be able to use; `run` marks the frames of this run.
    """
    numbers = count(1)
    made: list[FrameProbe] = []

    def add(source: Station, sketch: Sketch) -> None:
        for nic in source.nics:
            number = next(numbers)
            frame = sketch.build(fabric_mac, frames.token(run, number))
            made.append(FrameProbe(number, sketch.kind, sketch.text, source, nic, frame, sketch.control, sketch.echoed))

    for source in stations:
        for sketch in _sketches(source, stations, rules, tags):
            add(source, sketch)
    for source, target in permutations(stations, 2):
        for victim in _victims(source, target, stations):
            for sketch in _forged(source, victim, target, rules):
                add(source, sketch)
    return tuple(made)


def _victims(source: Station, target: Station, stations: Sequence[Station]) -> Sequence[Station]:
    """Whom `source` pretends to be: one admitted station of each network, on another host where there is one."""
    chosen: dict[str, Station] = {}
    for victim in stations:
        if victim in (source, target) or not victim.admitted:
            continue
        best = chosen.get(victim.network)
        if best is None or (best.host == source.host and victim.host != source.host):
            chosen[victim.network] = victim
    return tuple(chosen.values())
