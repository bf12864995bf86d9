# SPDX-License-Identifier: AGPL-3.0-or-later
"""What nodes, dependencies, networks and ports have counted, from the counters of flow entries.

An entry's counter begins anew when its switch restarts, and is gone with the entry.  So the sums are kept here: of
every reading the difference to the one before is added.  What an entry counted after the last reading and before its
end is lost; a sum never falls while this process runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from controller.channel import CountedEntry
from controller.compiler import Compilation
from controller.fabric import Port
from controller.flows import EntryKey, FlowEntry, Kind
from controller.ports import attached
from controller.profiles import Use

_TO_NODES = frozenset({Use.SENT, Use.RECEIVED, Use.DRAINED})
_TO_PORTS = frozenset({Use.SPOOFED})


@dataclass(frozen=True, slots=True, order=True)
class Count:
    """What is counted: ``subject`` is an owner's name (``binding/shop-app-1``), ``port sw1:3`` or ``switch sw1``."""

    use: Use
    subject: str


@dataclass(slots=True)
class Amount:
    """Packets and bytes."""

    packets: int = 0
    octets: int = 0


@dataclass(slots=True)
class _Seen:
    """An entry as the last reading found it."""

    cookie: int
    counts: tuple[Count, ...]
    packets: int
    octets: int


@dataclass
class Tally:
    """The sums of all switches.  Give it every reading of a whole switch."""

    totals: dict[Count, Amount] = field(default_factory=dict)
    _seen: dict[str, dict[EntryKey, _Seen]] = field(default_factory=dict)

    def add(self, switch: str, entries: Iterable[CountedEntry], compilation: Compilation) -> None:
        """Add what the entries of a switch have counted since the reading before."""
        if switch not in compilation.tables:
            return
        before = self._seen.get(switch, {})
        now: dict[EntryKey, _Seen] = {}
        subjects = _Subjects(compilation, switch)
        for counted in entries:
            if not counted.packets:
                continue  # it counts from 0 when it does
            entry = counted.entry
            seen = before.get(entry.key)
            if seen is None or seen.cookie != entry.cookie:
                counts = tuple(subjects.counts(entry))
                # A replaced entry keeps its counters (OpenFlow 1.3.5, 6.4) where the switch does as it should.
                seen = _Seen(entry.cookie, counts, *((seen.packets, seen.octets) if seen is not None else (0, 0)))
            restarted = counted.packets < seen.packets
            packets = counted.packets - (0 if restarted else seen.packets)
            octets = counted.octets - (0 if restarted else min(seen.octets, counted.octets))
            for count in seen.counts:
                total = self.totals.setdefault(count, Amount())
                total.packets += packets
                total.octets += octets
            now[entry.key] = _Seen(seen.cookie, seen.counts, counted.packets, counted.octets)
        self._seen[switch] = now
        self._forget(compilation)

    def _forget(self, compilation: Compilation) -> None:
        """Let go of what the intent does not have any more; a dark node of an aborted transaction, for example."""
        for switch in self._seen.keys() - compilation.tables.keys():
            del self._seen[switch]
        known = set(compilation.owners.values())
        for count in [one for one in self.totals if one.use not in _TO_PORTS | {Use.FRAGMENT}]:
            if count.subject not in known:
                del self.totals[count]


class _Subjects:
    """Finds what the entries of one switch count for."""

    def __init__(self, compilation: Compilation, switch: str) -> None:
        self._compilation = compilation
        self._switch = switch
        self._profile = compilation.profile(switch)

    @cached_property
    def _by_mac(self) -> Mapping[int, str]:
        return {one.mac: f"binding/{one.node}" for one in self._compilation.intent.bindings.values()}

    @cached_property
    def _by_address(self) -> Mapping[int, str]:
        return {int(one.address): f"binding/{one.node}" for one in self._compilation.intent.bindings.values()}

    def counts(self, entry: FlowEntry) -> Iterator[Count]:
        for use in self._profile.uses(entry):
            subject = self._subject(use, entry)
            if subject is not None:
                yield Count(use, subject)

    def _subject(self, use: Use, entry: FlowEntry) -> str | None:
        if use in _TO_PORTS:
            term = entry.match.get("in_port")
            return None if term is None else f"port {Port(self._switch, term[0])}"
        if use is Use.FRAGMENT:
            return f"switch {self._switch}"
        if use in _TO_NODES and entry.kind is Kind.SERVICE:
            return self._member(entry)
        return self._compilation.owners.get(entry.owner)

    def _member(self, entry: FlowEntry) -> str | None:
        """An entry of a service that is about one member: by its MAC where it sends, by register 2 where it gets."""
        sends, gets = entry.match.get("eth_src"), entry.match.get("reg2")
        if sends is not None:
            return self._by_mac.get(sends[0])
        return None if gets is None else self._by_address.get(gets[0])


def counters_json(tally: Tally, compilation: Compilation) -> dict[str, Any]:
    """Return the sums as an answer: every node, dependency, network, border and port, also those that counted nothing.

    Numbers are packets and bytes since the controller began to count.
    """
    intent, inventory = compilation.intent, compilation.intent.inventory
    found: dict[str, Any] = {name: {} for name in ("nodes", "dependencies", "networks", "borders", "switches")}
    found["ports"] = []
    if inventory is None:
        return found
    get = tally.totals.get
    for node, binding in intent.bindings.items():
        place = {**_named(binding.network), "host": binding.host, "phase": binding.phase.value}
        found["nodes"][node] = place | _amounts(get, f"binding/{node}", Use.SENT, Use.RECEIVED, Use.DRAINED)
    for key, policy in intent.policies.items():
        ends = {"from": f"border/{policy.source}" if policy.from_border else policy.source, "to": policy.target}
        uses = (Use.OPENED, Use.RETURNED, Use.REPORTED, Use.TURNED)
        found["dependencies"][key] = ends | _amounts(get, key, *uses)
    for key in intent.networks:
        found["networks"][key] = _named(key) | _amounts(get, f"network/{key}", Use.DENIED)
    for name in inventory.borders:
        found["borders"][name] = _amounts(get, f"border/{name}", Use.SENT, Use.RECEIVED, Use.DENIED)
    for switch in inventory.switches:
        found["switches"][switch] = _amounts(get, f"switch {switch}", Use.FRAGMENT)
        for number, what in attached(inventory, switch).items():
            port: dict[str, Any] = {"switch": switch, "port": number, "attached": what.to_json()}
            found["ports"].append(port | _amounts(get, f"port {Port(switch, number)}", Use.SPOOFED))
    return found


def _named(key: str) -> dict[str, Any]:
    platform, _, network = key.partition("/")
    return {"platform": platform, "network": network}


def _amounts(get: Callable[[Count], Amount | None], subject: str, *uses: Use) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for use in uses:
        amount = get(Count(use, subject)) or Amount()
        found |= {f"{use}Packets": amount.packets, f"{use}Bytes": amount.octets}
    return found
