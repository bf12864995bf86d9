# SPDX-License-Identifier: AGPL-3.0-or-later
"""The priorities of the single-table pipeline (``docs/fabric.md``, "One table").

In a layer that compares with prefixes, the length of the prefix is added: the longest one wins.
"""

from __future__ import annotations

from dataclasses import dataclass

FENCE = 9000
"""Frames of a VLAN that nobody on a port may use."""

TRANSIT_SERVICE = 8600
"""From a trunk, for a member of a service: by the MAC address of the member."""

TRANSIT = 8000
"""From a trunk, by destination; with the length of its prefix."""

LLDP = 7900

FENCE_BEYOND_HOSTS = 6500
"""What is left of the frames from a border port or a trunk."""

SERVICE_TO_SERVICE = 5900
"""From one service address to another: a service address opens nothing."""

GATEWAY = 5300
"""To the gateway of a border: it is no station."""

RETURN = 4600
"""From the port of a service; with the length of the destination's prefix."""

FROM_SERVICE = 4500
"""Anything else from a service address."""

DENIED = 1000
STRAY = 500
"""What is left of the frames from a host port."""

HAIRPIN = 200
"""Added to the priority of an entry that sends back out of the ingress port."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Where those who open connections have their entries.

    ``pinned``: to a service address, by client (with the length of the client's prefix); ``unpinned``: the clients that
    have no member; ``opens``: to nodes (with the length of the destination's prefix).
    """

    pinned: int
    unpinned: int
    opens: int


OF_NETWORKS = Layers(pinned=5400, unpinned=5300, opens=4000)
OF_BORDERS = Layers(pinned=7400, unpinned=7300, opens=7000)
