# SPDX-License-Identifier: AGPL-3.0-or-later
"""The model ``Cisco-NX-OS-device`` of the Nexus 9000 (YangModels/yang, vendor/cisco/nx/9.3-2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network

from controller.netconf.datamodel import DataModel, Target, filter_of
from controller.netconf.device import DeviceConfig, Port
from controller.netconf.tree import Element, Node, Path, Shape, Step, Tree, Value

NAMESPACE = "http://cisco.com/ns/yang/cisco-nx-os-device"
PREFIX = "odyssey-"
"""What the names of our access lists begin with; a list with such a name is ours."""
JUMBO = 9216
DEFAULT_MTU = 1500
STEP = 10  # between the sequence numbers of an access list


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _path(*names: str) -> Path:
    """A path of containers."""
    return tuple(Step(_tag(name)) for name in names)


def _node(**leaves: Value) -> Node:
    return {_tag(name): value for name, value in leaves.items()}


SYSTEM = _path("System")
BRIDGE = (*SYSTEM, *_path("bd-items", "bd-items"))
PHYSICAL = (*SYSTEM, *_path("intf-items", "phys-items"))
AGGREGATED = (*SYSTEM, *_path("intf-items", "aggr-items"))
LACP = (*SYSTEM, *_path("fm-items", "lacp-items"))
FAMILIES = {4: "ipv4-items", 6: "ipv6-items"}
ANY = {4: "0.0.0.0", 6: "::"}


def _acls(version: int) -> Path:
    return (*SYSTEM, *_path("acl-items", FAMILIES[version], "name-items"))


def _policy(version: int) -> Path:
    return (*SYSTEM, *_path("acl-items", FAMILIES[version], "policy-items", "ingress-items", "intf-items"))


def _entry(above: Path, name: str, key: str) -> Path:
    return (*above, Step(_tag(name), key))


class NexusModel(DataModel):
    """VLANs are bridge domains, a VLAN is ``vlan-120``, an interface ``eth1/1``, an aggregation ``po10``."""

    shape = Shape(
        {
            _tag("BD-list"): _tag("fabEncap"),
            _tag("PhysIf-list"): _tag("id"),
            _tag("AggrIf-list"): _tag("id"),
            _tag("RsMbrIfs-list"): _tag("tDn"),
            _tag("ACL-list"): _tag("name"),
            _tag("ACE-list"): _tag("seqNum"),
            _tag("If-list"): _tag("name"),
        }
    )

    def filter(self) -> Element:
        places = (BRIDGE, PHYSICAL, AGGREGATED, LACP, *map(_acls, FAMILIES), *map(_policy, FAMILIES))
        return filter_of(*(tuple(step.tag for step in place) for place in places))

    def values(self, target: Target) -> dict[Path, Node]:
        config = target.config
        tree: dict[Path, Node] = {
            _entry(BRIDGE, "BD-list", f"vlan-{number}"): _node(name=name) for number, name in config.vlans.items()
        }
        for name, port in target.ports().items():
            tree[_entry(PHYSICAL, "PhysIf-list", name)] = _port(port)
            tree |= _attached(name, port)
        for aggregate in config.aggregates.values():
            name = f"po{aggregate.number}"
            path = _entry(AGGREGATED, "AggrIf-list", name)
            tree[path] = {**_port(aggregate.port), **_node(pcMode="active")}
            for member in aggregate.members:
                physical = f"/System/intf-items/phys-items/PhysIf-list[id='{member}']"
                tree[_entry((*path, *_path("rsmbrIfs-items")), "RsMbrIfs-list", physical)] = {}
            tree |= _attached(name, aggregate.port)
        if config.aggregates:
            tree[LACP] = _node(adminSt="enabled")
        for name, prefixes in config.acls.items():
            for version in FAMILIES:
                tree |= _list(version, name, (prefix for prefix in prefixes if prefix.version == version))
        return tree

    def owned(self, path: Path, target: Target) -> bool:
        if path == LACP:
            return True
        for place, one in self._places(target):
            if path[: len(place)] == place and len(path) > len(place):
                return one(path[len(place)].key or "")
        return False

    def removable(self, path: Path, target: Target) -> bool:
        return self.owned(path, target) and path[:-1] != PHYSICAL

    def _places(self, target: Target) -> list[tuple[Path, Callable[[str], bool]]]:
        """Where lists lie that we have entries of, and which entries are ours."""
        aggregates = {f"po{number}" for number in target.aggregates}
        interfaces = target.owned.ports | aggregates
        return [
            (BRIDGE, lambda key: key.startswith("vlan-") and target.owned.vlan(int(key.removeprefix("vlan-")))),
            (PHYSICAL, lambda key: key in target.owned.ports),
            (AGGREGATED, lambda key: key in aggregates),
            *((_acls(version), lambda key: key.startswith(PREFIX)) for version in FAMILIES),
            *((_policy(version), lambda key: key in interfaces) for version in FAMILIES),
        ]

    def refusals(self, config: DeviceConfig) -> list[str]:
        found = []
        if config.controllers or config.openflow_ports:
            found.append(
                "the OpenFlow agent of a Nexus is not in its NETCONF model (9.3-2 has no type for it): set its "
                "controllers once on its command line"
            )
        for name, port in config.ports.items():
            if port.mtu is not None and port.mtu not in (DEFAULT_MTU, JUMBO):
                found.append(f"{name}: a layer 2 interface has an MTU of {DEFAULT_MTU} or {JUMBO}, not {port.mtu}")
        return found

    def normal(self, tree: Tree) -> dict[Path, Node]:
        trunk = _tag("trunkVlans")
        found: dict[Path, Node] = {}
        for path, node in tree.items():
            if isinstance(value := node.get(trunk), str):
                node = {**node, trunk: _ranges(_numbers(value))}
            found[path] = node
        return found


def _port(port: Port) -> Node:
    node = _node(
        layer="Layer2", descr=port.description, adminSt="up" if port.enabled else "down",
        mode="trunk" if port.tagged else "access",
    )  # fmt: skip
    if port.tagged:
        node = {**node, **_node(trunkVlans=_ranges(port.vlans))}
    elif port.vlans:
        node = {**node, **_node(accessVlan=f"vlan-{min(port.vlans)}")}
    return node if port.mtu is None else {**node, **_node(mtu=str(port.mtu))}


def _attached(name: str, port: Port) -> dict[Path, Node]:
    """The access lists of an interface, one for each family."""
    if port.acl is None:
        return {}
    found: dict[Path, Node] = {}
    for version in FAMILIES:
        interface = _entry(_policy(version), "If-list", name)
        found[interface] = {}
        found[(*interface, *_path("acl-items"))] = _node(name=f"{PREFIX}{port.acl}-{version}")
    return found


def _list(version: int, name: str, prefixes: Iterable[IPv4Network | IPv6Network]) -> dict[Path, Node]:
    """An access list that lets a packet in from the prefixes only; the last entry is written out, for an empty list
    that is attached lets everything in.
    """
    path = _entry(_acls(version), "ACL-list", f"{PREFIX}{name}-{version}")
    found: dict[Path, Node] = {path: {}}
    sources = [("permit", str(prefix.network_address), prefix.prefixlen) for prefix in sorted(prefixes, key=str)]
    for number, (action, prefix, length) in enumerate([*sources, ("deny", ANY[version], 0)], 1):
        entry = _entry((*path, *_path("seq-items")), "ACE-list", str(number * STEP))
        found[entry] = _node(
            action=action, protocol="ip" if version == 4 else "ipv6", srcPrefix=prefix, srcPrefixLength=str(length),
            dstPrefix=ANY[version], dstPrefixLength="0",
        )  # fmt: skip
    return found


def _numbers(ranges: str) -> set[int]:
    found: set[int] = set()
    for part in filter(None, (piece.strip() for piece in ranges.split(","))):
        low, _, high = part.partition("-")
        if not low.isdecimal() or (high and not high.isdecimal()):
            return set()  # "none"
        found.update(range(int(low), int(high or low) + 1))
    return found


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers as NX-OS writes them: ``100-102,120``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)
