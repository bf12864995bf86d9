# SPDX-License-Identifier: AGPL-3.0-or-later
"""The way of a connection through the fabric, hop by hop and in words, there and back.  Pure.

The tables are those that the switches hold, or should; the ports are as they are now.  The evaluator
(``controller/evaluate.py``) says which entries a packet meets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from controller.channel import CountedEntry
from controller.compiler import Compilation
from controller.ends import End, members
from controller.evaluate import Drop, EvaluationError, Fabric, Step, Trace, ip_packet
from controller.fabric import Port, Service, format_mac
from controller.flows import PROTO_TCP, PROTO_UDP, TCP_ACK, TCP_SYN, VLAN_PRESENT, EntryKey, TableSet
from controller.ports import PortState
from controller.reasons import Question, Reason, reason_of
from controller.wording import entry_json

#: The port of the client: from the range that Linux takes for its own (ip-sysctl, ip_local_port_range).
CLIENT_PORT = 40000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SwitchView:
    """What a switch holds; ``counted`` are its entries as just read, None where ``tables`` are what it should hold."""

    tables: TableSet
    counted: Mapping[EntryKey, CountedEntry] | None = None


@dataclass(frozen=True)
class View:
    """The fabric as it is now: what each switch holds, its ports as it told them, and which ports are down."""

    compilation: Compilation
    switches: Mapping[str, SwitchView]
    ports: Mapping[str, Mapping[int, PortState]]
    down: frozenset[Port]

    def fabric(self, slot: int) -> Fabric:
        """Return the evaluator of this fabric; a switch that chooses a slot chooses this one."""
        return self._fabric.choosing(lambda packet, slots: slot % slots)

    @cached_property
    def _fabric(self) -> Fabric:
        inventory = self.compilation.intent.inventory
        assert inventory is not None
        return Fabric.of({name: view.tables for name, view in self.switches.items()}, inventory, self.down)


@dataclass(frozen=True, slots=True)
class Leg:
    """One direction: the hops as JSON values, the switches that it passed, and why it stopped, if it did."""

    hops: tuple[Json, ...]
    switches: tuple[str, ...]
    stop: Json | None

    @property
    def open(self) -> bool:
        """Tell whether the packet arrived."""
        return self.stop is None

    def to_json(self) -> Json:
        """Return it as an answer carries it."""
        return {"open": self.open, "hops": list(self.hops), "stop": self.stop}


def declared_services(compilation: Compilation, source: End, target: End) -> list[Service]:
    """Return what ``source`` may open of ``target``, TCP first."""
    return sorted(
        service
        for policy in compilation.intent.policies.values()
        if (policy.source, policy.target, policy.from_border) == (source.group, target.group, source.is_border)
        for service in policy.services
    )


def explain(view: View, source: End, target: End, service: Service) -> tuple[Json, frozenset[str]]:
    """Return the way of a connection there and back as an answer, and the switches on it.

    Of a service address the way to one member is told in full, and whether each of the others is open.
    """
    ways = [_Way(view, Question(source, member, service)) for member in members(view.compilation.intent, target)]
    legs = [(way, way.there()) for way in ways]
    way, there = next(((one, leg) for one, leg in legs if not leg.open), legs[0])
    back = way.back() if there.open else None
    seen = frozenset(itertools.chain(there.switches, back.switches if back else ()))
    answer: Json = {
        "from": source.to_json(),
        "to": way.asked.target.to_json(),
        "protocol": service.protocol,
        "port": service.port,
        "open": there.open and back is not None and back.open,
        "there": there.to_json(),
        "back": None if back is None else back.to_json(),
        "notes": [note for note in (source.note, target.note) if note],
    }
    if target.service is not None:
        slots = target.service.slots
        answer["members"] = [
            {"node": one.asked.target.name, "slots": slots.count(one.asked.target.name), "open": leg.open}
            for one, leg in legs
        ]
    return answer, seen


@dataclass(frozen=True, slots=True)
class _Way:
    """One question: may a client open a port of one node."""

    view: View
    asked: Question

    def there(self) -> Leg:
        """Follow what opens the connection."""
        asked = self.asked
        return _Walk(self.view, asked, asked.source, asked.target, self._fields(opens=True), self._slot()).leg()

    def back(self) -> Leg:
        """Follow the answer."""
        asked = self.asked
        return _Walk(self.view, asked, asked.target, asked.source, self._fields(opens=False), self._slot()).leg()

    def _fields(self, *, opens: bool) -> dict[str, int]:
        protocol, port = self.asked.service.protocol, self.asked.service.port
        source, target = (CLIENT_PORT, port) if opens else (port, CLIENT_PORT)
        ports = {f"{protocol}_src": source, f"{protocol}_dst": target}
        if protocol == "udp":
            return {"ip_proto": PROTO_UDP, **ports}
        return {"ip_proto": PROTO_TCP, **ports, "tcp_flags": TCP_SYN if opens else TCP_SYN | TCP_ACK}

    def _slot(self) -> int:
        service, node = self.asked.target.service, self.asked.target.name
        return service.slots.index(node) if service is not None and node in service.slots else 0


@dataclass(frozen=True)
class _Walk:
    """One packet from one end to the other."""

    view: View
    asked: Question
    sender: End
    receiver: End
    fields: Mapping[str, int]
    slot: int

    def leg(self) -> Leg:
        entrance = self._entrance()
        if entrance is None:
            ports = ", ".join(map(str, self.sender.station.ports))
            reason = Reason("port_down", f"no port of {self.sender.station.name} is up: {ports}", "look at its cables")
            return Leg((self._sends(None),), (), self._stop(None, reason, None))
        try:
            trace = self.view.fabric(self.slot).trace(self._packet(entrance), entrance)
        except EvaluationError as error:
            reason = Reason("tables_wrong", f"the tables are wrong: {error}", "odysseyctl fabric diff")
            return Leg((self._sends(entrance),), (entrance.switch,), self._stop(entrance.switch, reason, None))
        hops = (self._sends(entrance), *self._hops(trace))
        switches = tuple(dict.fromkeys(port.switch for port in trace.hops))
        return Leg((*hops, *self._receives(trace)), switches, self._why(trace))

    def _entrance(self) -> Port | None:
        """Return the port through which the sender sends: its first NIC with a carrier, maintained switches last."""
        inventory = self.view.compilation.intent.inventory
        assert inventory is not None
        ports = sorted(self.sender.station.ports, key=lambda port: inventory.switches[port.switch].maintenance)
        return next((port for port in ports if port not in self.view.down), None)

    def _packet(self, entrance: Port) -> dict[str, int]:
        inventory = self.view.compilation.intent.inventory
        assert inventory is not None
        packet = ip_packet(
            self.sender.family,
            eth_src=self.sender.mac,
            eth_dst=inventory.mac,
            source=int(self.sender.address),
            target=int(self.receiver.address),
            **self.fields,
        )
        return packet | {"vlan_vid": self.sender.tag_at(entrance)}

    # Hops

    def _sends(self, entrance: Port | None) -> Json:
        inventory = self.view.compilation.intent.inventory
        assert inventory is not None
        return self._end(self.sender, entrance, "sends") | {"towards": format_mac(inventory.mac)}

    def _end(self, end: End, port: Port | None, what: str) -> Json:
        found = {**end.to_json(), "what": what}
        if port is not None and end.binding is not None:
            number = end.station.ports.index(port)
            # The agent names the two macvlans of a container in the order of its host's NICs.
            found |= {"nic": end.station.nic_at(port), "link": f"fab{number}"}
        return found | ({} if port is None else {"vlan": _vlan({"vlan_vid": end.tag_at(port)})})

    def _hops(self, trace: Trace) -> Iterator[Json]:
        runs = [list(run) for _, run in itertools.groupby(trace.steps, key=lambda step: step.switch)]
        arriving = zip(trace.hops, trace.frames, strict=True)
        left = [*trace.frames[1:], *(delivery.packet for delivery in trace.deliveries)]
        leaving = zip(trace.outs, left, strict=False)
        for into, run, out in itertools.zip_longest(arriving, runs, leaving):
            if into is not None:
                yield self._port(into[0], into[1], "in")
            for step in run or ():
                yield self._entry(step)
            if out is not None:
                yield self._port(out[0], out[1], "out")

    def _port(self, port: Port, frame: Mapping[str, int], direction: str) -> Json:
        state = self.view.ports.get(port.switch, {}).get(port.number)
        far = self.view.fabric(self.slot).links.get(port)
        found = {"kind": "port", "switch": port.switch, "port": port.number, "direction": direction}
        found |= {"name": state.name if state else None, "up": port not in self.view.down, "vlan": _vlan(frame)}
        return found | {"link": None if far is None else {"switch": far.switch, "port": far.number}}

    def _entry(self, step: Step) -> Json:
        found = {"kind": "entry", "switch": step.switch}
        found |= entry_json(step.switch, step.entry, self.view.compilation)
        counted = self.view.switches[step.switch].counted
        entry = None if counted is None else counted.get(step.entry.key)
        return found | {"packets": None if entry is None else entry.packets}

    def _receives(self, trace: Trace) -> Iterator[Json]:
        for delivery in trace.deliveries:
            if self._is_right(delivery.port, delivery.packet):
                yield self._end(self.receiver, delivery.port, "receives")

    def _is_right(self, port: Port, packet: Mapping[str, int]) -> bool:
        return port in self.receiver.station.ports and packet["eth_dst"] == self.receiver.mac

    # Why it stops

    def _why(self, trace: Trace) -> Json | None:
        for delivery in trace.deliveries:
            if self._is_right(delivery.port, delivery.packet):
                return None
            text = f"{delivery.port} sends it to {format_mac(delivery.packet['eth_dst'])}, which is somebody else"
            return self._stop(delivery.port.switch, Reason("wrong_place", text, "odysseyctl fabric diff"), None)
        drop = trace.drops[-1] if trace.drops else Drop(trace.hops[-1].switch, None, "it is sent nowhere")
        return self._stop(drop.switch, reason_of(self.view.compilation.intent, self.asked, drop), drop)

    def _stop(self, switch: str | None, reason: Reason, drop: Drop | None) -> Json:
        entry = None
        if drop is not None and drop.entry is not None:
            entry = entry_json(drop.switch, drop.entry, self.view.compilation)
        rule = drop.reason if drop is not None else reason.text
        return {"switch": switch, "entry": entry, "rule": rule, **reason.to_json()}


def _vlan(frame: Mapping[str, int]) -> int | None:
    return frame["vlan_vid"] & ~VLAN_PRESENT or None
