# SPDX-License-Identifier: AGPL-3.0-or-later
"""Networks and nodes as a user may name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odyssey.cli.app import App
from odyssey.cli.exits import Exit, Failure


def find_network(app: App, text: str) -> tuple[str, str]:
    """Platform and network of `shop/app`, or of `app` where only one platform has such a network. Raises Failure."""
    platform, slash, network = text.rpartition("/")
    if slash:
        return platform, network
    found = [item for item in app.ask("network.list").get("networks", []) if item["network"] == network]
    if len(found) == 1:
        return str(found[0]["platform"]), network
    if not found:
        raise Failure(f"there is no network {network} (odysseyctl network ls)", Exit.REFUSED)
    choices = ", ".join(f"{item['platform']}/{network}" for item in found)
    raise Failure(f"{network} is ambiguous: say which of {choices}", Exit.REFUSED)


def find_node(app: App, name: str) -> Mapping[str, Any]:
    """The node with its platform and network. Raises Failure."""
    return app.ask("node.show", {"node": name})
