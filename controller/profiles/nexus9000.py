# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cisco Nexus 9000 with its OpenFlow agent, pipeline 201 or 203 (``docs/fabric.md``, "Nexus 9000", has the sources)."""

from __future__ import annotations

from controller.fabric import Intent
from controller.profiles.base import Capabilities
from controller.profiles.single_table import SingleTableProfile

#: ``Pipeline Max Flows: 3001``: one is the table miss, which is configured on the device.
MOST_ENTRIES = 3000
#: ``Max Flow Batch Size: 300``
BATCH = 300
#: NX-OS keeps 128 VLANs for itself; ``system vlan N reserve`` moves the block (``docs/netconf.md``, "Limits").
RESERVED_VLANS = range(3968, 4096)


class Nexus9000Profile(SingleTableProfile):
    """One table in the TCAM; no ICMP types; one address family, which is IPv4."""

    @property
    def name(self) -> str:
        return "nexus9000"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            tables=1,
            groups=False,
            push_vlan=False,
            tcp_flags=False,
            atomic_bundle=False,
            reflects="unknown",
            ipv6=False,
            answers_neighbours=False,
            learns=False,
            keeps_dark=False,
            pins="network",
            fragments=False,
            batch=BATCH,
            reliable_barrier=False,
            icmp_errors=False,
            most_entries=MOST_ENTRIES,
        )

    def notes(self, intent: Intent, switch: str) -> list[str]:
        inventory = intent.inventory
        assert inventory is not None
        vlans = {f"network {network.key}": network.vlan for network in intent.networks.values()}
        vlans["transitVlan"] = inventory.transit_vlan
        return super().notes(intent, switch) + [
            f"{what}: VLAN {vlan} is one that NX-OS keeps for itself ({RESERVED_VLANS[0]} to {RESERVED_VLANS[-1]}); "
            "choose another one, or move the block with system vlan N reserve"
            for what, vlan in sorted(vlans.items())
            if vlan in RESERVED_VLANS
        ]
