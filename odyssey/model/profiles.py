# SPDX-License-Identifier: AGPL-3.0-or-later
"""What planning must know of each kind of switch; how it is programmed is the controller's affair.

The facts and their sources stand in docs/fabric.md; a test compares them with the controller's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProfileFacts:
    """One kind of switch.

    `keeps_dark`: it can let a node open connections while nothing reaches the node; else the agent keeps the node's
    link down until it is admitted. `reflects` (yes, no, unknown): it sends a frame out of the port on which it came
    in. `needs_tagged`: it cannot push VLANs, so frames of nodes come tagged. `ipv6`: it matches IPv6 beside IPv4.
    `groups`: it has groups, so it changes over by itself. `one_table`: everything is one table, so a connection
    cannot be remembered and a service address is balanced by the client's address.
    """

    keeps_dark: bool
    reflects: str
    needs_tagged: bool
    ipv6: bool
    groups: bool
    one_table: bool


PROFILES: Mapping[str, ProfileFacts] = {
    "openvswitch": ProfileFacts(
        keeps_dark=True, reflects="yes", needs_tagged=False, ipv6=True, groups=True, one_table=False
    ),
    "nexus9000": ProfileFacts(
        keeps_dark=False, reflects="unknown", needs_tagged=True, ipv6=False, groups=False, one_table=True
    ),
    "alliedtelesis": ProfileFacts(
        keeps_dark=False, reflects="unknown", needs_tagged=True, ipv6=True, groups=False, one_table=True
    ),
}
"""The profiles that the schema ``inventory`` knows. Where a vendor does not say, the cautious value stands."""
