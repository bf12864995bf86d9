# SPDX-License-Identifier: AGPL-3.0-or-later
"""OpenConfig as AlliedWare Plus has it (alliedtelesis/yang, models and ``at-*-deviation``, release 5.5.6-1)."""

from __future__ import annotations

from collections.abc import Iterable

from controller.netconf.datamodel import DataModel, Target, filter_of
from controller.netconf.device import DeviceConfig, Port
from controller.netconf.tree import Element, Node, Path, Shape, Step, Tree

INTERFACES = "http://openconfig.net/yang/interfaces"
ETHERNET = "http://openconfig.net/yang/interfaces/ethernet"
VLAN = "http://openconfig.net/yang/vlan"
SYSTEM = "http://openconfig.net/yang/system"
OPENFLOW = "http://openconfig.net/yang/openflow"
EXTENSION = "http://alliedtelesis.com/ns/yang/at-openconfig-openflow-ext"
PREFIX = "odyssey-"
"""What the names of our OpenFlow controllers begin with."""


def _path(namespace: str, *names: str) -> Path:
    return tuple(Step(f"{{{namespace}}}{name}") for name in names)


def _entry(above: Path, namespace: str, name: str, key: str) -> Path:
    return (*above, Step(f"{{{namespace}}}{name}", key))


VLANS = _path(VLAN, "vlans")
PORTS = _path(INTERFACES, "interfaces")
AGENT = (*_path(SYSTEM, "system"), *_path(OPENFLOW, "openflow", "agent", "config"))
USED = (*AGENT, *_path(EXTENSION, "interfaces"))
USED_ITEM = f"{{{EXTENSION}}}interface"
CONTROLLERS = (*_path(SYSTEM, "system"), *_path(OPENFLOW, "openflow", "controllers"))
SWITCHED = (*_path(ETHERNET, "ethernet"), *_path(VLAN, "switched-vlan", "config"))
TRUNK = f"{{{VLAN}}}trunk-vlans"


class AlliedTelesisModel(DataModel):
    """Interfaces are ``port1.0.1``.  There is no MTU, no access list and no LACP in these models."""

    shape = Shape(
        {
            f"{{{VLAN}}}vlan": f"{{{VLAN}}}vlan-id",
            f"{{{INTERFACES}}}interface": f"{{{INTERFACES}}}name",
            f"{{{OPENFLOW}}}controller": f"{{{OPENFLOW}}}name",
            f"{{{OPENFLOW}}}connection": f"{{{OPENFLOW}}}aux-id",
        },
        leaf_lists=frozenset({TRUNK}),
        items=frozenset({USED_ITEM}),
    )

    def filter(self) -> Element:
        places = (VLANS, PORTS, AGENT, CONTROLLERS)
        return filter_of(*(tuple(step.tag for step in place) for place in places))

    def values(self, target: Target) -> dict[Path, Node]:
        config = target.config
        tree: dict[Path, Node] = {}
        for number, name in config.vlans.items():
            vlan = _entry(VLANS, VLAN, "vlan", str(number))
            tree[vlan] = {}
            tree[(*vlan, *_path(VLAN, "config"))] = {f"{{{VLAN}}}vlan-id": str(number), f"{{{VLAN}}}name": name}
        for name, port in target.ports().items():
            tree |= _interface(name, port)
        for number, controller in enumerate(config.controllers, 1):
            entry = _entry(CONTROLLERS, OPENFLOW, "controller", f"{PREFIX}{number}")
            connection = _entry((*entry, *_path(OPENFLOW, "connections")), OPENFLOW, "connection", "0")
            tree |= {entry: {}, connection: {}}
            tree[(*connection, *_path(OPENFLOW, "config"))] = {
                f"{{{OPENFLOW}}}address": controller.address,
                f"{{{OPENFLOW}}}port": str(controller.port),
                f"{{{OPENFLOW}}}transport": "TLS",
            }
        if config.openflow_ports:
            tree[AGENT] = {f"{{{OPENFLOW}}}failure-mode": "SECURE"}
            tree |= {(*USED, Step(USED_ITEM, name)): {} for name in config.openflow_ports}
        return tree

    def owned(self, path: Path, target: Target) -> bool:
        if path == AGENT:
            return True
        if path[:-1] == USED:
            return path[-1].key in target.owned.ports
        if path[: len(VLANS)] == VLANS and len(path) > len(VLANS):
            return target.owned.vlan(int(path[len(VLANS)].key or 0))
        if path[: len(PORTS)] == PORTS and len(path) > len(PORTS):
            return path[len(PORTS)].key in target.owned.ports
        if path[: len(CONTROLLERS)] == CONTROLLERS and len(path) > len(CONTROLLERS):
            return (path[len(CONTROLLERS)].key or "").startswith(PREFIX)
        return False

    def removable(self, path: Path, target: Target) -> bool:
        return self.owned(path, target) and path[:-1] != PORTS

    def refusals(self, config: DeviceConfig) -> list[str]:
        found = []
        if config.aggregates:
            found.append("the published models of AlliedWare Plus have no LACP: leave uplinks out and set it by hand")
        if config.acls:
            found.append("the published models of AlliedWare Plus have no access lists")
        if any(port.mtu is not None for port in config.ports.values()):
            found.append("AlliedWare Plus does not let NETCONF set an MTU (at-openconfig-interfaces-deviation)")
        return found

    def atomic(self, path: Path) -> bool:
        # A device may answer a trunk's VLANs as ranges, so that single ones cannot be taken out of it.
        return path[: len(PORTS)] == PORTS and path[-len(SWITCHED) :] == SWITCHED

    def rank(self, path: Path) -> int:
        """VLANs before the interfaces that carry them, interfaces before the OpenFlow agent that uses them."""
        if path[: len(VLANS)] == VLANS:
            return 0
        return 1 if path[: len(PORTS)] == PORTS else 2

    def normal(self, tree: Tree) -> dict[Path, Node]:
        found: dict[Path, Node] = {}
        for path, node in tree.items():
            if isinstance(value := node.get(TRUNK), tuple):
                node = {**node, TRUNK: _vlans(value)}
            found[path] = node
        return found


def _interface(name: str, port: Port) -> dict[Path, Node]:
    entry = _entry(PORTS, INTERFACES, "interface", name)
    found: dict[Path, Node] = {
        entry: {},
        (*entry, *_path(INTERFACES, "config")): {
            f"{{{INTERFACES}}}description": port.description,
            f"{{{INTERFACES}}}enabled": "true" if port.enabled else "false",
        },
    }
    if port.tagged:
        found[(*entry, *SWITCHED)] = {
            f"{{{VLAN}}}interface-mode": "TRUNK",
            TRUNK: _vlans(map(str, port.vlans)),
        }
    elif port.vlans:
        found[(*entry, *SWITCHED)] = {
            f"{{{VLAN}}}interface-mode": "ACCESS",
            f"{{{VLAN}}}access-vlan": str(min(port.vlans)),
        }
    return found


def _vlans(items: Iterable[str]) -> tuple[str, ...]:
    """Single VLANs, in order, of numbers and ranges such as ``100..102``."""
    numbers: set[int] = set()
    for item in items:
        low, _, high = item.partition("..")
        numbers.update(range(int(low), int(high or low) + 1))
    return tuple(map(str, sorted(numbers)))
