# SPDX-License-Identifier: AGPL-3.0-or-later
"""Small fabrics of switches with one table for the tests: as in ``samples``, with tags."""

from __future__ import annotations

from typing import Any

from controller.fabric import Intent
from controller.flows import VLAN_PRESENT
from tests.unit.controller import samples

EDGE_VLAN = 200


def shop(profile: str = "nexus9000", reflects: str | None = "yes", **phases: str) -> dict[str, Any]:
    """Return the three tiers of ``samples.shop`` on two switches; the database hangs on the second only."""
    documents = samples.shop(**phases)
    inventory = tagged(documents["inventory"], profile, reflects)
    inventory["hosts"]["h3"]["attachments"] = inventory["hosts"]["h3"]["attachments"][1:]
    return documents | {"inventory": inventory}


def tagged(inventory: dict[str, Any], profile: str, reflects: str | None = "yes") -> dict[str, Any]:
    """Turn an inventory into one of switches of a profile: attachments and borders with tags."""
    for switch in inventory["fabric"]["switches"].values():
        switch |= {"profile": profile, "maxEntries": 3000}
        switch |= {} if reflects is None else {"reflects": reflects}
    for border in inventory["fabric"]["borders"].values():
        border["vlan"] = EDGE_VLAN
    for host in inventory["hosts"].values():
        for attachment in host["attachments"]:
            attachment["tagged"] = True
    return inventory


def service(*pins: tuple[str, str]) -> dict[str, Any]:
    """Return the service document of the applications."""
    return samples.service("shop/app", samples.SERVICE) | {"pins": dict(pins)}


def packet(intent: Intent, source: str, target: str, **fields: int) -> dict[str, int]:
    """Return a packet as ``samples.packet``, with the tag of its sender."""
    vlan = EDGE_VLAN if source == "edge" else intent.networks[intent.bindings[source].network].vlan
    assert vlan is not None
    return samples.packet(intent, source, target, **fields) | {"vlan_vid": VLAN_PRESENT | vlan}
