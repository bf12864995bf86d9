# SPDX-License-Identifier: AGPL-3.0-or-later
"""A platform on the lab of ``controller_support``, and random changes that leave certain pairs alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from tests.changes.streams import Route
from tests.unit.controller import samples

Json = dict[str, Any]
Changes = dict[str, Json | None]

#: Nodes by name: network, address, host.  Those with a 1 stay admitted for ever.
NODES: Mapping[str, tuple[str, str, str]] = {
    "lb-1": ("shop/lb", "172.16.10.2", "h1"),
    "app-1": ("shop/app", "172.16.20.2", "h1"),
    "app-2": ("shop/app", "172.16.20.3", "h2"),
    "app-9": ("shop/app", "172.16.20.9", "h2"),
    "db-1": ("shop/db", "172.16.30.2", "h3"),
    "db-2": ("shop/db", "172.16.30.3", "h1"),
}
#: Nodes that send by their second NIC, to the other switch: so frames cross the trunk to h3 and the border.
SECOND_NIC = frozenset({"app-1", "lb-1"})
SERVICE = "172.16.20.1"
SLOTS = 8

ALWAYS: tuple[tuple[Route, tuple[str, ...]], ...] = (
    (Route("edge", "lb-1", "172.16.10.2", 9000), ("lb-1",)),
    (Route("lb-1", "edge", samples.EDGE_CLIENT, 41000, source_port=9000), ("edge",)),
    (Route("lb-1", "app-1", "172.16.20.2", 9001), ("app-1",)),
    (Route("lb-1", "service", SERVICE, 9001), ("app-1", "app-2")),
    (Route("app-1", "db-1", "172.16.30.2", 5353), ("db-1",)),
    (Route("db-1", "app-1", "172.16.20.2", 41001, source_port=5353), ("app-1",)),
)
NEVER: tuple[tuple[Route, tuple[str, ...]], ...] = (
    (Route("lb-1", "db-1", "172.16.30.2", 5353), ("db-1",)),
    (Route("lb-1", "db-2", "172.16.30.3", 5353), ("db-2",)),
    (Route("lb-1", "app-1", "172.16.20.2", 9999), ("app-1",)),
    (Route("lb-1", "app-9", "172.16.20.9", 9001), ("app-9",)),
    (Route("db-1", "lb-1", "172.16.10.2", 9000), ("lb-1",)),
    (Route("db-2", "app-1", "172.16.20.2", 9001), ("app-1",)),
    (Route("app-1", "lb-1", "172.16.10.2", 9000), ("lb-1",)),
    (Route("app-9", "db-1", "172.16.30.2", 5353), ("db-1",)),
    (Route("edge", "app-1", "172.16.20.2", 9001), ("app-1",)),
    (Route("edge", "db-1", "172.16.30.2", 5353), ("db-1",)),
)


def bound(node: str, phase: str, host: str | None = None) -> Json:
    """Return the binding of a node."""
    network, address, home = NODES[node]
    return samples.binding(node, network, address, host or home, phase)


def start() -> dict[str, Json]:
    """Return the intent that the changes begin with."""
    inventory = samples.inventory()
    inventory["hosts"]["h3"]["attachments"] = inventory["hosts"]["h3"]["attachments"][:1]
    return {
        "inventory": inventory,
        "network/shop/lb": samples.network(1, "172.16.10.0/24", 110),
        "network/shop/app": samples.network(2, "172.16.20.0/24", 120),
        "network/shop/db": samples.network(3, "172.16.30.0/24", 130),
        "policy/shop/lb/app": samples.policy("shop/lb", "shop/app", ("tcp", 8080), ("udp", 9001)),
        "policy/shop/app/db": samples.policy("shop/app", "shop/db", ("tcp", 5432), ("udp", 5353)),
        "expose/shop/lb/edge": {
            "network": "shop/lb",
            "border": "edge",
            "ports": [{"protocol": "udp", "port": 9000}],
        },
        "service/shop/app": {"network": "shop/app", "address": SERVICE, "slots": ["app-1"] * SLOTS},
        **{f"binding/{node}": bound(node, "admitted") for node in ("lb-1", "app-1", "app-2", "db-1", "db-2")},
    }


class Draw:
    """Draws one change after the other; ``now`` is the intent so far."""

    def __init__(self, seed: int) -> None:
        self.now = start()
        self._random = random.Random(seed)
        self._kinds: tuple[Callable[[], Changes], ...] = (
            self._phase_of_app,
            self._phase_of_db,
            self._phase_of_stranger,
            self._slots,
            self._ports,
            self._peers,
            self._other_network,
            self._second_family,
            self._inventory,
        )

    def change(self) -> Changes:
        """Draw a change: one kind, or several at once."""
        changes: Changes = {}
        for kind in self._random.sample(self._kinds, self._random.choice((1, 1, 1, 2, 3))):
            for key, value in kind().items():
                changes[key] = value
                self._fold({key: value})
        self._mend(changes)
        return changes

    def _fold(self, changes: Changes) -> None:
        for key, value in changes.items():
            if value is None:
                self.now.pop(key, None)
            else:
                self.now[key] = value

    def _mend(self, changes: Changes) -> None:
        """Take slots from a node that serves no more: an intent that names it would be refused."""
        serves = [node for node in ("app-1", "app-2") if self.now.get(f"binding/{node}", {}).get("phase") == "admitted"]
        service = self.now["service/shop/app"]
        if not set(service["slots"]) <= set(serves):
            mended = dict(service, slots=[node if node in serves else "app-1" for node in service["slots"]])
            changes["service/shop/app"] = mended
            self._fold({"service/shop/app": mended})

    def _phase_of_app(self) -> Changes:
        phase = self._random.choice(["admitted", "admitted", "draining", "standby", None])
        return {"binding/app-2": None if phase is None else bound("app-2", phase)}

    def _phase_of_db(self) -> Changes:
        phase = self._random.choice(["admitted", "draining", "standby", None])
        return {"binding/db-2": None if phase is None else bound("db-2", phase)}

    def _phase_of_stranger(self) -> Changes:
        """A node that nobody may reach and that reaches nobody: on one host or another, never admitted."""
        phase = self._random.choice(["standby", None])
        host = self._random.choice(["h1", "h2"])
        return {"binding/app-9": None if phase is None else bound("app-9", phase, host)}

    def _slots(self) -> Changes:
        serves = [node for node in ("app-1", "app-2") if self.now.get(f"binding/{node}", {}).get("phase") == "admitted"]
        slots = [self._random.choice(serves) for _ in range(SLOTS)]
        return {"service/shop/app": dict(self.now["service/shop/app"], slots=slots)}

    def _ports(self) -> Changes:
        key, opened = self._random.choice(
            [
                ("policy/shop/lb/app", ("udp", 9001)),
                ("policy/shop/app/db", ("udp", 5353)),
                ("expose/shop/lb/edge", ("udp", 9000)),
            ]
        )
        others = [("tcp", port) for port in self._random.sample((80, 81, 5432, 8080), self._random.randint(0, 3))]
        ports = [{"protocol": protocol, "port": port} for protocol, port in (opened, *others)]
        return {key: dict(self.now[key], ports=ports)}

    def _peers(self) -> Changes:
        key = "policy/shop/app/app"
        return {key: None if key in self.now else samples.policy("shop/app", "shop/app", ("tcp", 7000))}

    def _other_network(self) -> Changes:
        if "network/shop/other" in self.now:
            return {"network/shop/other": None, "binding/other-1": None}
        binding = samples.binding("other-1", "shop/other", "172.16.40.2", "h2", "admitted")
        return {"network/shop/other": samples.network(4, "172.16.40.0/24", 140), "binding/other-1": binding}

    def _second_family(self) -> Changes:
        """Give the applications IPv6, or take it away: every entry of theirs gets another generation."""
        network, node = dict(self.now["network/shop/app"]), dict(self.now["binding/app-1"])
        if network.pop("subnet6", None) is None:
            network["subnet6"], node["address6"] = "fd00:0:0:20::/64", "fd00:0:0:20::2"
        else:
            node.pop("address6", None)
        return {"network/shop/app": network, "binding/app-1": node}

    def _inventory(self) -> Changes:
        inventory: Json = deepcopy(self.now["inventory"])
        fabric = inventory["fabric"]
        match self._random.randrange(3):
            case 0:
                fabric["mtu"] = self._random.choice((1500, 9000))
            case 1:
                fabric["switches"]["sw2"]["maintenance"] = not fabric["switches"]["sw2"].get("maintenance", False)
            case _:
                if fabric["borders"].pop("spare", None) is None:
                    fabric["borders"]["spare"] = {
                        "ports": [{"switch": "sw2", "port": 202}],
                        "prefix": "198.51.100.0/24",
                        "gateway": "198.51.100.1",
                        "peer": {"address": "198.51.100.2", "mac": "02:cc:00:00:00:02"},
                    }
        return {"inventory": inventory}
