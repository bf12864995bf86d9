# SPDX-License-Identifier: AGPL-3.0-or-later
"""What NETCONF shall make of the switches that have `management`: documents of ``netconf-operation``. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from odyssey.model.faults import by_path, fault
from odyssey.model.inventory import Inventory, Switch
from odyssey.model.platform import Network
from odyssey.model.snapshot import Snapshot
from odyssey.planning.operations import Draft
from schemas import Fault

Document = Mapping[str, Any]

ABLE: Mapping[str, frozenset[str]] = {
    "nexus9000": frozenset({"acls", "mtu", "uplinks"}),
    "alliedtelesis": frozenset({"openflow"}),
}
"""Kinds of switches that are configured by NETCONF, and what their models have beside VLANs and ports; the sources
stand in docs/netconf.md."""

NAME_LIMIT = 32
"""Characters of a VLAN's name, on NX-OS as on AlliedWare Plus."""
DEFAULT_MTU, JUMBO_MTU = 1500, 9216
"""The two MTUs that a layer 2 interface of a Nexus may have."""


def configure(draft: Draft, before: Snapshot, after: Snapshot) -> None:
    """Give a transaction what it changes of the configuration of switches."""
    if not any(key == "inventory" or key.startswith("platform/") for key in draft.changes):
        return
    old, new = device_documents(before), device_documents(after)
    for switch in sorted(old.keys() | new.keys()):
        if old.get(switch) != new.get(switch):
            draft.configure(switch, new.get(switch))


def device_documents(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """The documents of all switches that are configured by NETCONF, by name."""
    if snapshot.inventory is None:
        return {}
    platforms = sorted(snapshot.platforms.items())
    networks = [network for _, platform in platforms for network in platform.networks.values()]
    inventory = snapshot.inventory
    return {switch.name: _Device(inventory, switch, networks).document() for switch in _managed(inventory)}


def device_faults(inventory: Inventory) -> tuple[Fault, ...]:
    """What an inventory lacks for the switches that it wants configured by NETCONF."""
    return by_path(found for switch in _managed(inventory, able=False) for found in _faults(inventory, switch))


def vlan_name(platform: str, network: str) -> str:
    """The name of a network's VLAN; one that is too long ends with a part of its digest, so that names stay unique."""
    name = f"{platform}-{network}"
    if len(name) <= NAME_LIMIT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: NAME_LIMIT - 1 - len(digest)]}-{digest}"


@dataclass(frozen=True, slots=True)
class _Use:
    """What a port of a switch is there for; `trunk` are the VLANs of its frames, None if they are untagged."""

    description: str
    trunk: tuple[int, ...] | None
    acl: str | None = None


def _switch_document(inventory: Inventory, name: str) -> Document:
    found: Document = inventory.document["fabric"]["switches"][name]
    return found


def _managed(inventory: Inventory, *, able: bool = True) -> Iterator[Switch]:
    for name, switch in sorted(inventory.fabric.switches.items()):
        if "management" in _switch_document(inventory, name) and (switch.profile in ABLE or not able):
            yield switch


def _ports(inventory: Inventory, switch: str, vlans: tuple[int, ...]) -> dict[int, _Use]:
    """The ports of a switch that the inventory names, and what each is there for; `vlans` are those of networks."""
    fabric = inventory.fabric
    found: dict[int, _Use] = {}
    for name, host in inventory.hosts.items():
        for item in host.attachments:
            if item.at.switch == switch:
                text = f"odyssey host {name} {item.nic}"
                found[item.at.port] = _Use(text, vlans if item.tagged else None, "hosts")
    for link in fabric.links:
        for here, there in (link, reversed(link)):
            if here.switch == switch:
                found[here.port] = _Use(f"odyssey link {there.switch}", (fabric.transit_vlan,))
    for name, border in fabric.borders.items():
        for port in border.ports:
            if port.switch == switch:
                tags = None if border.vlan is None else (border.vlan,)
                found[port.port] = _Use(f"odyssey border {name}", tags, f"border-{name}")
    return found


class _Device:
    """The document of one switch."""

    def __init__(self, inventory: Inventory, switch: Switch, networks: Iterable[Network]) -> None:
        self._inventory = inventory
        self._networks = list(networks)
        self._raw = _switch_document(inventory, switch.name)
        self._profile = switch.profile
        self._able = ABLE[switch.profile]
        self._uses = _ports(inventory, switch.name, tuple(sorted({network.vlan for network in self._networks})))

    def document(self) -> dict[str, Any]:
        vlans = self._vlans()
        names = {number: self._raw["ports"][str(number)]["name"] for number in sorted(self._uses)}
        ports = {names[number]: self._port(use) for number, use in self._uses.items()}
        aggregates = {}
        for uplink in self._raw.get("uplinks", {}).values():
            port = ports.pop(f"po{uplink['number']}")
            aggregates[str(uplink["number"])] = {"members": sorted(uplink["members"]), "port": port}
            # A member carries what its aggregation carries; the access list stands on the aggregation alone.
            member = {part: value for part, value in port.items() if part != "acl"}
            ports |= dict.fromkeys(uplink["members"], member)
        document: dict[str, Any] = {
            "profile": self._profile,
            "management": dict(self._raw["management"]),
            "owned": {"vlans": self._owned(vlans), "ports": sorted(ports)},
            "vlans": {str(number): name for number, name in sorted(vlans.items())},
            "ports": dict(sorted(ports.items())),
        }
        if aggregates:
            document["aggregates"] = aggregates
        if "acls" in self._able:
            document["acls"] = self._acls()
        controllers = self._inventory.document["fabric"].get("controllers")
        if controllers and "openflow" in self._able:
            document |= {"controllers": controllers, "openflowPorts": sorted(ports)}
        return document

    def _vlans(self) -> dict[int, str]:
        fabric = self._inventory.fabric
        found = {network.vlan: vlan_name(network.platform, network.name) for network in self._networks}
        found[fabric.transit_vlan] = "odyssey-transit"
        for name, border in fabric.borders.items():
            # A VLAN of the world outside that is not ours is used and not made.
            if border.vlan is not None and (fabric.owned_vlans is None or border.vlan in fabric.owned_vlans):
                found.setdefault(border.vlan, vlan_name("odyssey", name))
        return found

    def _owned(self, vlans: Iterable[int]) -> list[dict[str, int]]:
        ranges = self._inventory.fabric.owned_vlans
        parts = ((number, number) for number in sorted(vlans)) if ranges is None else ranges.parts
        return [{"from": low, "to": high} for low, high in parts]

    def _port(self, use: _Use) -> dict[str, Any]:
        """An untagged port is an access port of the lowest VLAN; what may carry no VLAN yet is shut."""
        port: dict[str, Any] = {"description": use.description}
        untagged = min((network.vlan for network in self._networks), default=None)
        if use.trunk:
            port["trunk"] = list(use.trunk)
        elif use.trunk is None and untagged is not None:
            port["access"] = untagged
        else:
            port["enabled"] = False
        if "mtu" in self._able:
            port["mtu"] = DEFAULT_MTU if self._inventory.fabric.mtu <= DEFAULT_MTU else JUMBO_MTU
        if "acls" in self._able and use.acl is not None:
            port["acl"] = use.acl
        return port

    def _acls(self) -> dict[str, list[str]]:
        """Who may send on the ports of hosts: the networks; on those of a border: what lies behind it."""
        subnets = (prefix for network in self._networks for prefix in (network.subnet, network.subnet6))
        found = {"hosts": sorted(str(prefix) for prefix in subnets if prefix is not None)}
        for name, border in self._inventory.fabric.borders.items():
            prefixes = [prefix for prefix in (border.prefix, border.prefix6) if prefix is not None]
            found[f"border-{name}"] = sorted(map(str, prefixes))
        used = {use.acl for use in self._uses.values()}
        return {name: prefixes for name, prefixes in found.items() if name in used}


def _faults(inventory: Inventory, switch: Switch) -> Iterator[Fault]:
    path = f"$.fabric.switches.{switch.name}"
    raw = _switch_document(inventory, switch.name)
    if switch.profile not in ABLE:
        yield fault(f"{path}.management", switch.profile, f"a profile that has NETCONF: {', '.join(ABLE)}")
        return
    names: dict[str, int] = {}
    for number in sorted(_ports(inventory, switch.name, ())):
        name = raw.get("ports", {}).get(str(number), {}).get("name")
        if name is None:
            yield fault(f"{path}.ports.{number}", None, "the device's name of the port: NETCONF needs it")
        elif name in names:
            yield fault(f"{path}.ports.{number}.name", name, f"a name of its own; port {names[name]} has this one")
        else:
            names[name] = number
    members: dict[str, str] = {}
    numbers: dict[int, str] = {}
    for key, uplink in raw.get("uplinks", {}).items():
        if "uplinks" not in ABLE[switch.profile]:
            yield fault(f"{path}.uplinks", switch.profile, "no uplinks: the models of this device have no LACP")
            return
        if numbers.setdefault(uplink["number"], key) != key:
            expected = f"a number of its own; {numbers[uplink['number']]} has this one"
            yield fault(f"{path}.uplinks.{key}.number", uplink["number"], expected)
        if f"po{uplink['number']}" not in names:
            expected = f"the number of an aggregation that is a border's port: one must be named po{uplink['number']}"
            yield fault(f"{path}.uplinks.{key}.number", uplink["number"], expected)
        for member in uplink["members"]:
            if member in names or members.setdefault(member, key) != key:
                yield fault(f"{path}.uplinks.{key}.members", member, "an interface that nothing else uses")
