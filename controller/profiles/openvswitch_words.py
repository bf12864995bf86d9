# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tables of the Open vSwitch pipeline are called, and what its entries count."""

from __future__ import annotations

from collections.abc import Mapping

from controller.flows import FlowEntry, Goto, Kind
from controller.profiles.base import Use
from controller.profiles.openvswitch_borders import TABLE_ADVERTISE, TABLE_RESOLVE
from controller.profiles.openvswitch_nodes import TABLE_CLASSIFY
from controller.profiles.openvswitch_policy import TABLE_POLICY
from controller.profiles.openvswitch_reach import TABLE_DELIVER, TABLE_FROM_TRUNK, TABLE_TO_STATION
from controller.profiles.openvswitch_services import TABLE_CHOOSE, TABLE_LEARNED, TABLE_SERVICE, TABLE_SLOT

TABLE_NAMES: Mapping[int, str] = {
    TABLE_CLASSIFY: "classify",
    TABLE_RESOLVE: "resolve",
    TABLE_ADVERTISE: "advertise",
    TABLE_POLICY: "policy",
    TABLE_SERVICE: "service",
    TABLE_LEARNED: "learned",
    TABLE_CHOOSE: "choose",
    TABLE_SLOT: "slot",
    TABLE_DELIVER: "deliver",
    TABLE_FROM_TRUNK: "from trunk",
    TABLE_TO_STATION: "to station",
}
_STATIONS = frozenset({Kind.BINDING, Kind.SERVICE, Kind.BORDER})


def uses_of(entry: FlowEntry) -> tuple[Use, ...]:
    """Return what the packets of an entry are counted as."""
    if entry.table == TABLE_CLASSIFY:
        return _classified(entry)
    if entry.table == TABLE_POLICY:
        return _judged(entry)
    if entry.table == TABLE_DELIVER and entry.kind in _STATIONS:
        # A packet passes this table once, in the switch where it came in.
        return (Use.RECEIVED,) if entry.actions else (Use.DRAINED,) if entry.kind is Kind.BINDING else ()
    return ()


def _classified(entry: FlowEntry) -> tuple[Use, ...]:
    fields = [name for name, _, _ in entry.match.terms]
    if entry.kind in _STATIONS and entry.actions[-1:] == (Goto(TABLE_POLICY),):
        return (Use.SENT,)
    return (Use.SPOOFED,) if fields == ["in_port"] and not entry.actions else ()


def _judged(entry: FlowEntry) -> tuple[Use, ...]:
    if entry.match.get("ip_frag") is not None:
        return (Use.FRAGMENT,)
    if entry.kind in (Kind.NETWORK, Kind.BORDER):
        return (Use.DENIED,)
    if entry.kind is not Kind.POLICY:
        return ()
    if not entry.actions:
        return (Use.TURNED,)
    if entry.actions == (Goto(TABLE_SERVICE),):
        return (Use.OPENED,)
    answers = entry.match.get("tcp_src") is not None or entry.match.get("udp_src") is not None
    return (Use.RETURNED,) if answers else (Use.REPORTED,)
