# SPDX-License-Identifier: AGPL-3.0-or-later
"""Documents for the agent's unit tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.spec import NodeSpec


def document(node: str = "shop-app-3", **changes: Any) -> dict[str, Any]:
    """Return a small node-spec document."""
    return {
        "node": node,
        "platform": "shop",
        "network": "app",
        "address": "172.16.20.3",
        "mac": "02:00:ac:10:14:03",
        "image": "shop-app:1",
        "nics": ["eth0", "eth1"],
        "gateway": "169.254.1.1",
        "fabricMac": "02:fa:00:00:00:01",
        **changes,
    }


def spec(node: str = "shop-app-3", **changes: Any) -> NodeSpec:
    """Return a small node specification."""
    return NodeSpec.parse(document(node, **changes))


def operation(start: Sequence[Mapping[str, Any]] = (), **stages: Any) -> dict[str, Any]:
    """Return an operation."""
    return {"prepare": {"start": list(start)} if start else None, "stages": stages}


def neighbours(node: str, revision: int) -> dict[str, Any]:
    """Return a neighbours document."""
    return {"node": node, "revision": revision, "dependencies": {}}
