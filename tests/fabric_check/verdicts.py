# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compares what became of a packet with what had to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from controller.evaluate import Trace
from controller.fabric import Port, format_mac
from tests.fabric_check.oracle import Packet, Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where copies of a packet left the fabric, as they then looked, and how many went to a controller.

    ``last`` is table and priority of the last entry that it matched.
    """

    sent: tuple[tuple[Port, Packet], ...] = ()
    to_controller: int = 0
    last: tuple[int, int] | None = None
    story: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, trace: Trace) -> Outcome:
        """Return the outcome of a trace in the evaluator."""
        sent = tuple((one.port, one.packet) for one in trace.deliveries)
        story = [f"{step.switch}: {step.entry}" for step in trace.steps] + [str(drop) for drop in trace.drops]
        last = trace.steps[-1].entry if trace.steps else None
        return cls(sent, len(trace.punts), None if last is None else (last.table, last.priority), tuple(story))


#: Table and priority of the entries that count what is dropped, by the profile of the switch.
COUNTERS: Mapping[str, Mapping[str, tuple[int, int]]] = {"openvswitch": {"spoof": (0, 1), "fragment": (10, 400)}}


def fault(
    packet: Packet,
    at: Port,
    verdict: Verdict,
    outcome: Outcome,
    *,
    ways_are_up: bool = True,
    counters: Mapping[str, tuple[int, int]] | None = None,
) -> str | None:
    """Return in what an outcome breaks a verdict, None where it does not.

    Without ``ways_are_up`` a drop is never wrong.  ``counters`` are those of the switch where the packet comes in.
    """
    copies = len(outcome.sent) + outcome.to_controller
    if copies > 1:
        return f"{copies} copies"
    if outcome.to_controller != verdict.to_controller:
        return "it goes to the controller" if outcome.to_controller else "it does not go to the controller"
    if verdict.answer is not None:
        wrong = not outcome.sent or outcome.sent[0][0] != at or unlike(verdict.answer, outcome.sent[0][1])
        return f"the answer is not {shown(verdict.answer)}" if wrong else None
    if verdict.counted is not None and counters is not None and counters[verdict.counted] != outcome.last:
        return f"the {verdict.counted} counter does not count it, but {outcome.last}"
    if not outcome.sent:
        lost = verdict.receivers and not verdict.may_drop and ways_are_up
        return "it is lost" if lost else None
    return _wrong_delivery(packet, verdict, *outcome.sent[0])


def _wrong_delivery(packet: Packet, verdict: Verdict, port: Port, sent: Packet) -> str | None:
    if not verdict.receivers:
        return f"it must be dropped ({verdict.why}), and leaves at {port}"
    for receiver in verdict.receivers:
        rewritten = {"eth_src": receiver.source_mac, "eth_dst": receiver.mac, "vlan_vid": receiver.tag_at(port)}
        if port in receiver.ports and not unlike({**packet, **rewritten}, sent):
            return None
    names = ", ".join(receiver.name for receiver in verdict.receivers)
    return f"it is for {names}, and leaves at {port} as {shown(sent)}"


def unlike(one: Packet, other: Packet) -> Sequence[str]:
    """Return the fields in which two packets differ; a field that is missing is zero."""
    return [name for name in sorted({*one, *other}) if one.get(name, 0) != other.get(name, 0)]


def shown(packet: Mapping[str, int]) -> str:
    """Return a packet in words."""
    macs = {"eth_src", "eth_dst", "arp_sha", "arp_tha", "nd_tll"}
    words = []
    for name, value in packet.items():
        text = format_mac(value) if name in macs else hex(value) if value > 65535 or name == "eth_type" else str(value)
        words.append(f"{name}={text}")
    return ",".join(words)
