# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a plan changes, line by line, for people: the difference of two snapshots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from odyssey.model.inventory import Inventory
from odyssey.model.maintenance import Maintenance
from odyssey.model.platform import Network
from odyssey.model.snapshot import Snapshot
from odyssey.model.state import WEIGHT, NetworkState, NodeState
from odyssey.planning.documents import intent
from odyssey.planning.steps import Change

T = TypeVar("T")


def difference(before: Snapshot, after: Snapshot) -> tuple[Change, ...]:
    """Changes from `before` to `after`, by kind (inventory, switch, platform, network, service...) and name."""
    return tuple(_all(before, after))


def _all(before: Snapshot, after: Snapshot) -> Iterator[Change]:
    yield from _compare("inventory", _inventory(before), _inventory(after), _inventory_text, _inventory_change)
    yield from _compare("switch", before.maintenance, after.maintenance, _switch_text, _switch_change, "in use again")
    yield from _compare(
        "platform",
        {name: platform.document for name, platform in before.platforms.items()},
        {name: platform.document for name, platform in after.platforms.items()},
        lambda document: _counted(len(document["networks"]), "network"),
        lambda old, new: "document changed",
    )
    yield from _compare("network", _networks(before), _networks(after), _network_text, _network_change)
    yield from _lost_volumes(before, after)
    yield from _compare("service", _services(before), _services(after), _service_text, _service_change)
    for kind, word in (("policy", "policy"), ("expose", "exposure")):
        yield from _compare(word, _intents(before, kind), _intents(after, kind), _ports_text, _ports_change)
    yield from _compare("node", before.nodes, after.nodes, _node_text, _node_change)


def _compare(
    kind: str,
    before: Mapping[str, T],
    after: Mapping[str, T],
    describe: Callable[[T], str],
    changed: Callable[[T, T], str],
    gone: str | None = None,
) -> Iterator[Change]:
    """Compare two tables; where `gone` is given, entries are states of things that are there with and without them."""
    for name in sorted(before.keys() | after.keys(), key=_natural):
        if name not in before:
            yield Change("+" if gone is None else "~", kind, name, describe(after[name]))
        elif name not in after:
            yield Change("-", kind, name, describe(before[name])) if gone is None else Change("~", kind, name, gone)
        elif before[name] != after[name]:
            yield Change("~", kind, name, changed(before[name], after[name]))


def _natural(name: str) -> tuple[str, int]:
    """Sort node names by ordinal: shop-app-9 before shop-app-10."""
    stem, _, last = name.rpartition("-")
    return (stem, int(last)) if last.isascii() and last.isdigit() else (name, 0)


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _inventory(snapshot: Snapshot) -> dict[str, Inventory]:
    return {snapshot.inventory.cluster: snapshot.inventory} if snapshot.inventory is not None else {}


def _inventory_text(inventory: Inventory) -> str:
    switches = len(inventory.fabric.switches)
    return f"{_counted(len(inventory.hosts), 'host')}, {_counted(switches, 'switch', 'switches')}"


def _inventory_change(old: Inventory, new: Inventory) -> str:
    parts = [f"host {name} added" for name in new.hosts if name not in old.hosts]
    parts += [f"host {name} removed" for name in old.hosts if name not in new.hosts]
    parts += [f"host {name} changed" for name in new.hosts if name in old.hosts and new.hosts[name] != old.hosts[name]]
    if old.document["fabric"] != new.document["fabric"]:
        parts.append("fabric changed")
    return ", ".join(parts) or "document changed"


def _switch_text(state: Maintenance) -> str:
    told = f"; not told yet: {', '.join(sorted(state.avoid))}" if state.over and state.avoid else ""
    return {"unused": "out of use", "isolated": "out of use, isolated", "over": "in use again"}[state.phase] + told


def _switch_change(old: Maintenance, new: Maintenance) -> str:
    return f"{_switch_text(old)} -> {_switch_text(new)}"


def _lost_volumes(before: Snapshot, after: Snapshot) -> Iterator[Change]:
    """Volumes of nodes that are gone, on hosts that leave; those of networks that leave stay where they are."""
    for key, state in before.networks.items():
        if key in after.networks:
            for name in sorted(state.homes.keys() - after.networks[key].homes.keys()):
                detail = f"on {state.homes[name]}, which leaves: the next {name} begins with an empty one"
                yield Change("-", "volume", name, detail)


def _services(snapshot: Snapshot) -> dict[str, tuple[Network, NetworkState]]:
    found = {}
    for key, state in snapshot.networks.items():
        network = snapshot.network(key)
        if network is not None and network.service is not None:
            found[key] = (network, state)
    return found


def _service_text(item: tuple[Network, NetworkState]) -> str:
    network, state = item
    assert network.service is not None
    nodes = _counted(len(set(state.slots)), "node")
    return f"{', '.join(network.service.addresses().values())}, {network.service.slots} slots, {nodes}"


def _service_change(old: tuple[Network, NetworkState], new: tuple[Network, NetworkState]) -> str:
    """How many slots each node has, where that changes, and how many clients get another node."""
    before, after = Counter(old[1].slots), Counter(new[1].slots)
    parts = [
        f"{node} {before[node]} -> {after[node]}"
        for node in sorted(before.keys() | after.keys(), key=_natural)
        if before[node] != after[node]
    ]
    slots = f"slots: {', '.join(parts)}" if parts else ""
    moved = sum(new[1].pins.get(client) != node for client, node in old[1].pins.items())
    coming = len(new[1].pins.keys() - old[1].pins.keys())
    clients = f"clients: {coming} new, {moved} moved or gone" if moved or coming else ""
    texts = [text for text in (slots, clients) if text]
    return "; ".join(texts) or f"{_service_text(old)} -> {_service_text(new)}"


def _networks(snapshot: Snapshot) -> dict[str, tuple[Network, int]]:
    found = {}
    for key, state in snapshot.networks.items():
        network = snapshot.network(key)
        if network is not None:
            found[key] = (network, state.count)
    return found


def _network_text(item: tuple[Network, int]) -> str:
    network, count = item
    return f"{network.subnet}, VLAN {network.vlan}, image {network.image}, {_counted(count, 'node')}"


def _network_change(old: tuple[Network, int], new: tuple[Network, int]) -> str:
    parts = [
        f"{name} {_value(read(old[0]))} -> {_value(read(new[0]))}"
        for name, read in _FIELDS.items()
        if read(old[0]) != read(new[0])
    ]
    if old[1] != new[1]:
        parts.insert(0, f"nodes {old[1]} -> {new[1]}")
    later = [name for name in ("health", "onChange", "placement") if any(part.startswith(name) for part in parts)]
    note = f" ({', '.join(later)}: for nodes that start from now on)" if later else ""
    return (", ".join(parts) or "dependencies, exposure or peers") + note


_FIELDS: Mapping[str, Callable[[Network], Any]] = {
    "subnet": lambda network: str(network.subnet),
    "subnet6": lambda network: network.subnet6,
    "vlan": lambda network: network.vlan,
    "service": lambda network: network.service.addresses() if network.service is not None else None,
    "image": lambda network: network.image,
    "min": lambda network: network.scale.min,
    "max": lambda network: network.scale.max,
    "standby": lambda network: network.scale.standby,
    "health": lambda network: dict(network.health),
    "onChange": lambda network: network.on_change,
    "resources": lambda network: (network.resources.cpus, network.resources.memory),
    "placement": lambda network: dict(network.labels),
    "drain": lambda network: network.drain_timeout,
    "stateful": lambda network: network.volume,
    "secrets": lambda network: sorted(network.secrets),
    "environment": lambda network: sorted(network.environment.items()),
    "command": lambda network: network.command,
}


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_value(item)}" for name, item in sorted(value.items())) + "}"
    return "none" if value is None else str(value)


def _intents(snapshot: Snapshot, kind: str) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for platform in snapshot.platforms.values():
        for key, document in intent(platform, snapshot.networks).items():
            if key.startswith(f"{kind}/"):
                found[_intent_name(document)] = document
    return found


def _intent_name(document: Mapping[str, Any]) -> str:
    if "border" in document:
        return f"{document['border']} -> {document['network']}"
    return f"{document['from']} -> {document['to']}"


def _ports_text(document: Mapping[str, Any]) -> str:
    return ", ".join(f"{port['protocol']} {port['port']}" for port in document["ports"])


def _ports_change(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return f"{_ports_text(old)} -> {_ports_text(new)}"


def _node_text(node: NodeState) -> str:
    six = f", {node.address6}" if node.address6 is not None else ""
    weight = f", weight {node.weight}" if node.weight != WEIGHT else ""
    return f"{node.phase} on {node.host}, {node.address}{six}{weight}"


def _node_change(old: NodeState, new: NodeState) -> str:
    weight = f", weight {old.weight} -> {new.weight}" if old.weight != new.weight else ""
    phase = f"{old.phase} -> {new.phase}" if old.phase != new.phase else new.phase
    return f"{phase} on {new.host}, {new.address}{weight}"
