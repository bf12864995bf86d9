# SPDX-License-Identifier: AGPL-3.0-or-later
"""How full the switches are: for whom their entries are, what is promised, and how many more nodes fit.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import Any

from controller.compiler import Compilation, compile_documents, user_of, with_changes
from controller.fabric import Intent, IntentRefused, Network
from controller.flows import EntryKey, Kind
from controller.ledger import Ledger

Json = dict[str, Any]
#: Networks for which it is tried out what one more node costs; of the others the headroom is not told.
MAX_TRIALS = 64
_TRIAL_NODE = "odyssey-trial"


def capacity_report(ledger: Ledger) -> Json:
    """Return the use of every switch by the committed intent, and what open transactions have reserved beside it.

    ``headroom`` of a network is how many more admitted nodes fit at what one more costs: compiled, on the switch of
    the profile where it costs most.  The addresses that are left in its subnet bound it too.
    """
    now = ledger.compilation
    reserved = _reserved(ledger)
    costs = dict(_costs(ledger))
    left = {key: _free_count(now.intent, key) for key in costs}
    switches = {}
    for name, tables in now.tables.items():
        used, capacity = len(tables.entries), now.capacity(name)
        free = max(0, capacity - used - reserved.get(name, 0))
        kinds = Counter((entry.kind or Kind.BASE).name.lower() for entry in tables)
        users = Counter(user_of(now, entry.owner) for entry in tables)
        switches[name] = {
            "entries": used,
            "groups": len(tables.groups),
            "capacity": capacity,
            "share": round(used / capacity, 4),
            "reserved": reserved.get(name, 0),
            "free": free,
            "byKind": dict(kinds.most_common()),
            "byUser": dict(users.most_common()),
            "perNode": {key: cost[name] for key, cost in costs.items()},
            "headroom": {key: min(free // cost[name], left[key]) for key, cost in costs.items()},
        }
    untried = max(0, len(now.intent.networks) - MAX_TRIALS)
    return {"switches": switches, "addresses": left, "open": sorted(ledger.open), "untried": untried}


def _reserved(ledger: Ledger) -> Mapping[str, int]:
    """Return how many entries of a switch open transactions may still add to those that it has to hold now."""
    keys: dict[str, set[EntryKey]] = {}
    for one in ledger.open.values():
        for documents in one.outcomes(ledger.effective):
            try:
                tables = compile_documents(documents).tables
            except IntentRefused:
                continue  # an outcome that a later decision has overtaken: prepare looks at it again
            for name, outcome in tables.items():
                keys.setdefault(name, set()).update(outcome.entries)
    now = ledger.compilation.tables
    return {name: len(found - now[name].entries.keys()) for name, found in keys.items() if name in now}


def _costs(ledger: Ledger) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Yield for each network how many entries one more node takes on each switch."""
    now = ledger.compilation
    for key in sorted(now.intent.networks)[:MAX_TRIALS]:
        trial = _trial(now.intent, key)
        if trial is None:
            continue
        try:
            after = compile_documents(with_changes(ledger.effective, {f"binding/{_TRIAL_NODE}": trial}, 0))
        except IntentRefused:
            continue  # it cannot have one more node on that host: there is no number to tell
        more = {name: len(tables.entries) - len(now.tables[name].entries) for name, tables in after.tables.items()}
        yield key, _at_worst(more, now)


def _at_worst(more: Mapping[str, int], now: Compilation) -> Mapping[str, int]:
    """A node costs most on the switches of its host: count that for every switch of the same profile."""
    worst: Counter[str] = Counter()
    for name, count in more.items():
        profile = now.profile(name).name
        worst[profile] = max(worst[profile], count, 1)
    return {name: worst[now.profile(name).name] for name in more}


def _trial(intent: Intent, key: str) -> Json | None:
    """Return the binding of one more admitted node; None where there is no address or no host for it."""
    inventory, network = intent.inventory, intent.networks[key]
    assert inventory is not None
    tagged_needs_vlan = network.vlan is None
    hosts = [
        name for name, host in inventory.hosts.items() if host.ports and not (host.tagged and tagged_needs_vlan)
    ]
    address = _free_address(intent, key)
    if not hosts or address is None:
        return None
    node: Json = {"node": _TRIAL_NODE, "network": key, "address": str(address), "host": hosts[0], "phase": "admitted"}
    taken = {binding.mac for binding in intent.bindings.values()}
    mac = next(number for number in range(0x02FD00000000, 0x02FE00000000) if number not in taken)
    node["mac"] = ":".join(f"{byte:02x}" for byte in mac.to_bytes(6))
    if network.subnet6 is not None:
        node["address6"] = str(network.subnet6.network_address + (int(address) - _first(network)))
    return node


def _first(network: Network) -> int:
    return int(network.subnet.network_address)


def _range(network: Network) -> range:
    """The addresses for nodes: not the first two of the subnet and not its last."""
    return range(_first(network) + 2, int(network.subnet.broadcast_address))


def _taken(intent: Intent, key: str) -> set[int]:
    service = intent.services.get(key)
    taken = {int(binding.address) for binding in intent.bindings.values() if binding.network == key}
    return taken | (set() if service is None else {int(service.address)})


def _free_count(intent: Intent, key: str) -> int:
    numbers = _range(intent.networks[key])
    return len(numbers) - sum(number in numbers for number in _taken(intent, key))


def _free_address(intent: Intent, key: str) -> IPv4Address | None:
    taken = _taken(intent, key)
    return next((IPv4Address(number) for number in _range(intent.networks[key]) if number not in taken), None)
