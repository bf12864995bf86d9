# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the entries of a single-table switch count."""

from __future__ import annotations

from controller.flows import FlowEntry, Kind
from controller.profiles.base import Use
from controller.profiles.single_table_layers import DENIED, FENCE, FENCE_BEYOND_HOSTS, STRAY

_BY_PORT = ("tcp_src", "udp_src")
_ERRORS = ("icmpv4_type", "icmpv6_type")


def uses_of(entry: FlowEntry) -> tuple[Use, ...]:
    """Return what the packets of an entry are counted as.

    What a single node sends and gets is not counted: the entry of a dependency is the same for all of its clients.
    """
    if entry.kind is Kind.POLICY:
        if any(entry.match.get(name) for name in _BY_PORT):
            return (Use.RETURNED,)
        return (Use.REPORTED,) if any(entry.match.get(name) for name in _ERRORS) else (Use.OPENED,)
    if entry.actions:
        return ()
    if entry.kind is Kind.HOST:
        return (Use.SPOOFED,) if entry.priority in (FENCE, STRAY) else ()
    if entry.kind is Kind.BORDER and entry.priority == FENCE:
        return (Use.SPOOFED,)
    is_denied = (entry.kind, entry.priority) in ((Kind.NETWORK, DENIED), (Kind.BORDER, FENCE_BEYOND_HOSTS))
    return (Use.DENIED,) if is_denied else ()
