# SPDX-License-Identifier: AGPL-3.0-or-later
"""The whole fabric as one answer: switches and ports, links, hosts with their nodes, borders, networks.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.compiler import Compilation
from controller.fabric import Inventory, Link, Port, Station, Switch
from controller.ports import PortCounters, PortState, attached, port_json

Json = dict[str, Any]
#: Counters of the ports of a switch, by number.
Counters = Mapping[int, PortCounters]


def fabric_report(
    compilation: Compilation,
    seen: Mapping[str, Mapping[str, Any]],
    ports: Mapping[str, Mapping[int, PortState]],
    wrong_cables: Mapping[Port, str],
    counters: Mapping[str, tuple[Counters, Counters]],
) -> Json:
    """Return the fabric as an answer.

    ``seen`` is the report of each switch, ``counters`` two readings of its ports: the load between them is in bit/s.
    """
    inventory = compilation.intent.inventory
    if inventory is None:
        return {"switches": {}, "links": [], "hosts": {}, "borders": {}, "networks": {}}
    switches = {}
    for name, switch in inventory.switches.items():
        before, after = counters.get(name, ({}, {}))
        found = ports.get(name)
        rows = _ports(inventory, name, found, wrong_cables, before, after)
        down = None if found is None else sum(not row["up"] for row in rows)
        switches[name] = {**_declared(switch), **seen.get(name, {}), "ports": rows, "down": down}
    return {
        "switches": switches,
        "links": [_link(link, ports) for link in inventory.links],
        "hosts": _hosts(compilation, inventory),
        "borders": {
            name: _station(border) | {"prefix": str(border.prefix)} for name, border in inventory.borders.items()
        },
        "networks": _networks(compilation),
    }


def _declared(switch: Switch) -> Json:
    return {
        "profile": switch.profile,
        "datapathId": f"{switch.datapath_id:016x}",
        "maintenance": switch.maintenance,
        "isolated": switch.isolated,
    }


def _ports(
    inventory: Inventory,
    switch: str,
    states: Mapping[int, PortState] | None,
    wrong_cables: Mapping[Port, str],
    before: Counters,
    after: Counters,
) -> list[Json]:
    rows = []
    for number, what in attached(inventory, switch).items():
        state = (states or {}).get(number)
        row: Json = {"port": number, "attached": what.to_json(), **port_json(state, after.get(number))}
        row["up"] = row["up"] if states is not None else None  # nobody knows
        row["wrongCable"] = wrong_cables.get(Port(switch, number))
        rows.append(row | _load(before.get(number), after.get(number)))
    return rows


def _load(before: PortCounters | None, after: PortCounters | None) -> Json:
    """Return the load between two readings; none where a port is new or its counters began anew."""
    seconds = after.seconds - before.seconds if before is not None and after is not None else 0.0
    if before is None or after is None or seconds <= 0:
        return {"rxRate": None, "txRate": None}
    received, sent = after.rx_bytes - before.rx_bytes, after.tx_bytes - before.tx_bytes
    return {"rxRate": round(max(0, received) * 8 / seconds), "txRate": round(max(0, sent) * 8 / seconds)}


def _link(link: Link, ports: Mapping[str, Mapping[int, PortState]]) -> Json:
    states = [ports[end.switch].get(end.number) for end in (link.a, link.b) if end.switch in ports]
    up = None if not states else all(state is not None and state.up for state in states)
    ends = [{"switch": end.switch, "port": end.number} for end in (link.a, link.b)]
    return {"a": ends[0], "b": ends[1], "up": up}


def _station(station: Station) -> Json:
    return {
        "ports": [
            {"switch": port.switch, "port": port.number, "nic": station.nic_at(port) or None} for port in station.ports
        ]
    }


def _hosts(compilation: Compilation, inventory: Inventory) -> dict[str, Json]:
    found: dict[str, Json] = {name: _station(host) | {"nodes": []} for name, host in inventory.hosts.items()}
    for node, binding in sorted(compilation.intent.bindings.items()):
        one = {"node": node, "network": binding.network, "phase": binding.phase.value, "address": str(binding.address)}
        found[binding.host]["nodes"].append(one)
    return found


def _networks(compilation: Compilation) -> dict[str, Json]:
    services = compilation.intent.services
    return {
        key: {
            "vlan": network.vlan,
            "subnet": str(network.subnet),
            "service": str(services[key].address) if key in services else None,
        }
        for key, network in compilation.intent.networks.items()
    }
