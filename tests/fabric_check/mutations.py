# SPDX-License-Identifier: AGPL-3.0-or-later
"""Faults to plant in compiled tables of Open vSwitch, each of which the check has to find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from controller.flows import (
    Action,
    Bucket,
    ClearInPort,
    FlowEntry,
    Goto,
    GroupEntry,
    Match,
    Output,
    PushVlan,
    SetField,
    TableSet,
    ToGroup,
    full_mask,
)

Tables = Mapping[str, TableSet]
#: Changes an entry, drops it (None), or gives it back as it is.
Change = Callable[[FlowEntry], FlowEntry | None]


def _entries(change: Change) -> Callable[[Tables], Tables]:
    def mutate(tables: Tables) -> Tables:
        return {switch: _rebuilt(one, (change(entry) for entry in one)) for switch, one in tables.items()}

    return mutate


def _rebuilt(tables: TableSet, entries: Iterable[FlowEntry | None]) -> TableSet:
    # Two entries may have become one: then the last stays, as in a switch.
    kept = {entry.key: entry for entry in entries if entry is not None}
    return TableSet(kept, tables.groups, tables.meters)


def _groups(change: Callable[[GroupEntry], GroupEntry]) -> Callable[[Tables], Tables]:
    def mutate(tables: Tables) -> Tables:
        return {
            switch: TableSet(one.entries, {number: change(group) for number, group in one.groups.items()}, one.meters)
            for switch, one in tables.items()
        }

    return mutate


def _without_terms(entry: FlowEntry, *names: str) -> FlowEntry:
    return replace(entry, match=Match(tuple(term for term in entry.match.terms if term[0] not in names)))


def _is(entry: FlowEntry, table: int, priority: int, *terms: str) -> bool:
    return (entry.table, entry.priority) == (table, priority) and all(entry.match.get(term) for term in terms)


def _pins_without(*names: str) -> Change:
    """Widen the pins of nodes: they have an exact source MAC."""
    return lambda entry: _without_terms(entry, *names) if _is(entry, 0, 300, "eth_src") else entry


def _without(table: int, priority: int, *terms: str) -> Change:
    return lambda entry: None if _is(entry, table, priority, *terms) else entry


def _without_action(table: int, kind: type[Action]) -> Change:
    def change(entry: FlowEntry) -> FlowEntry:
        if entry.table != table:
            return entry
        return replace(entry, actions=tuple(action for action in entry.actions if not isinstance(action, kind)))

    return change


def _wide_policy(entry: FlowEntry) -> FlowEntry:
    """Compare 16 bits of the target, not 24."""
    if not _is(entry, 10, 300, "ipv4_dst"):
        return entry
    terms = ((name, value & _mask(name, mask), _mask(name, mask)) for name, value, mask in entry.match.terms)
    return replace(entry, match=Match(tuple(terms)))


def _mask(name: str, mask: int) -> int:
    return mask & 0xFFFF0000 if name == "ipv4_dst" else mask


def _swapped_macs(tables: Tables) -> Tables:
    """Deliver what is for one node to the MAC of the next."""
    return {switch: _rebuilt(one, _swapped(list(one))) for switch, one in tables.items()}


def _swapped(entries: list[FlowEntry]) -> Iterator[FlowEntry]:
    nodes = [entry for entry in entries if _is(entry, 30, 200)]
    other = dict(zip((entry.key for entry in nodes), (entry.actions for entry in nodes[1:] + nodes[:1]), strict=True))
    for entry in entries:
        yield replace(entry, actions=other.get(entry.key, entry.actions))


def _lost_return_mark(entry: FlowEntry) -> FlowEntry:
    if not _is(entry, 10, 200):
        return entry
    return replace(entry, actions=tuple(action for action in entry.actions if isinstance(action, Goto)))


def _third_walk(entry: FlowEntry) -> FlowEntry:
    """Let a frame of walk 2 begin walk 1 again."""
    group = entry.match.get("reg5")
    if not _is(entry, 32, 100) or group is None:
        return entry
    return replace(entry, actions=(ClearInPort(), ToGroup(group[0])))


def _opening_services(entry: FlowEntry) -> FlowEntry:
    """Let a member open connections from the service address: as if it were the node's own."""
    actions = tuple(
        SetField("reg0", action.value & 0x7FFF) if isinstance(action, SetField) and action.value & 1 << 17 else action
        for action in entry.actions
    )
    return replace(entry, actions=actions) if entry.table == 0 else entry


def _answer_of_another(entry: FlowEntry) -> FlowEntry:
    if entry.table not in (5, 6):
        return entry
    wrong = {"arp_sha": SetField("arp_sha", 0x02EE00000001), "nd_tll": SetField("nd_tll", 0x02EE00000001)}
    return replace(
        entry,
        actions=tuple(wrong.get(one.name, one) if isinstance(one, SetField) else one for one in entry.actions),
    )


def _from_trunk_by_address(entry: FlowEntry) -> FlowEntry:
    """Deliver a trunk frame for a service to any member."""
    return _without_terms(entry, "eth_dst") if _is(entry, 31, 200, "eth_dst") else entry


def _exact_return(entry: FlowEntry) -> FlowEntry:
    """Let no member answer from the service address."""
    if not _is(entry, 10, 200, "reg0"):
        return entry
    full = full_mask("reg0")
    return replace(entry, match=Match(tuple((n, v, full if n == "reg0" else m) for n, v, m in entry.match.terms)))


def _first_bucket_only(group: GroupEntry) -> GroupEntry:
    return replace(group, buckets=group.buckets[:1])


def _untagged_host_ports(group: GroupEntry) -> GroupEntry:
    def untagged(bucket: Bucket) -> Bucket:
        to_host = any(isinstance(action, Output) and action.port < 100 for action in bucket.actions)
        kept = [one for one in bucket.actions if not isinstance(one, PushVlan)]
        kept = [one for one in kept if not (isinstance(one, SetField) and one.name == "vlan_vid")]
        return replace(bucket, actions=tuple(kept)) if to_host else bucket

    return replace(group, buckets=tuple(untagged(bucket) for bucket in group.buckets))


#: Each changes the tables of a fabric; the check must tell them from what the compiler made.
MUTATIONS: Mapping[str, Callable[[Tables], Tables]] = {
    "no guard against connections from a service port": _entries(_without(10, 210)),
    "a policy with a wide mask": _entries(_wide_policy),
    "a pin without the source address": _entries(_pins_without("ipv4_src", "ipv6_src")),
    "a pin without the source MAC": _entries(_pins_without("eth_src")),
    "a pin without the port": _entries(_pins_without("in_port")),
    "a pin without the VLAN": _entries(_pins_without("vlan_vid")),
    "transit frames from every port": _entries(
        lambda entry: _without_terms(entry, "in_port") if _is(entry, 0, 400) else entry
    ),
    "swapped MACs": _swapped_macs,
    "a dark node that is reached": _entries(
        lambda entry: _without_terms(entry, "reg1") if entry.table == 30 else entry
    ),
    "no mark on return traffic": _entries(_lost_return_mark),
    "a draining node that gets connections": _entries(_without(30, 300)),
    "fragments that are not counted": _entries(_without(10, 400)),
    "no spoof counter": _entries(_without(0, 1)),
    "a gateway that is a station": _entries(_without(30, 150)),
    "no hairpin": _entries(_without_action(30, ClearInPort)),
    "groups without a second choice": _groups(_first_bucket_only),
    "a third walk": _entries(_third_walk),
    "service addresses that open connections": _entries(_opening_services),
    "members that do not answer": _entries(_exact_return),
    "a trunk frame for any member": _entries(_from_trunk_by_address),
    "answers with another MAC": _entries(_answer_of_another),
    "frames without their tag": _groups(_untagged_host_ports),
    "LLDP that nobody gets": _entries(_without(0, 350)),
}
