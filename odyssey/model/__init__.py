# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the orchestrator knows, as frozen values: inventory, platforms, nodes, and the snapshot that holds them."""

from __future__ import annotations

from odyssey.model.inventory import Inventory
from odyssey.model.platform import Network, Platform
from odyssey.model.snapshot import Snapshot
from odyssey.model.state import NetworkState, NodeState

__all__ = ["Inventory", "Network", "NetworkState", "NodeState", "Platform", "Snapshot"]
