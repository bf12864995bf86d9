# SPDX-License-Identifier: AGPL-3.0-or-later
"""Keeps nodes that may talk on different hosts where the switches do not send frames back."""

from __future__ import annotations

from collections.abc import Mapping

from odyssey.model.apart import why_apart
from odyssey.model.naming import network_key
from odyssey.model.platform import Network, Platform
from odyssey.model.snapshot import Snapshot


class Separation:
    """Which hosts a node must leave alone, and which it should leave to the networks that it talks to."""

    def __init__(self, snapshot: Snapshot) -> None:
        assert snapshot.inventory is not None
        reasons = {name: why_apart(snapshot.inventory, name) for name in sorted(snapshot.inventory.hosts)}
        self._reasons = {name: reason for name, reason in reasons.items() if reason is not None}
        self._position = {name: number for number, name in enumerate(self._reasons)}
        self._platforms = snapshot.platforms
        self._colours: dict[str, dict[str, int]] = {}

    def objection(self, host: str, network: Network, tenants: Mapping[str, int]) -> str | None:
        """Why a node of `network` cannot be on a host that holds `tenants` (nodes by network); None if it can."""
        if host not in self._reasons:
            return None
        platform = self._platforms[network.platform]
        keys = [network_key(platform.name, name) for name in sorted(platform.partners(network.name))]
        there = [f"{tenants[key]} of {key}" for key in keys if tenants.get(key)]
        if not there:
            return None
        return f"holds nodes that it may talk to ({', '.join(there)}), and {self._reasons[host]}"

    def foreign(self, host: str, network: Network) -> bool:
        """Tell whether a host is better left to networks that this one talks to.

        The hosts are divided among the colours of the graph of who talks to whom, so that a network that spreads over
        all hosts does not take the last one of a network that starts later. It is a preference: room counts more.
        """
        if host not in self._position:
            return False
        colours = self._colours.setdefault(network.platform, _colours(self._platforms[network.platform]))
        return self._position[host] % (1 + max(colours.values())) != colours[network.name]


def _colours(platform: Platform) -> dict[str, int]:
    """A colour for each network, so that no two that talk have the same; greedy, those that talk most first."""
    partners = {name: platform.partners(name) - {name} for name in platform.networks}
    colours: dict[str, int] = {}
    for name in sorted(partners, key=lambda item: (-len(partners[item]), item)):
        taken = {colours[other] for other in partners[name] if other in colours}
        colours[name] = next(colour for colour in range(len(taken) + 1) if colour not in taken)
    return colours
