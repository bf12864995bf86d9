# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names that follow from other names: nodes, MAC addresses, keys of documents."""

from __future__ import annotations

from collections.abc import Container, Iterator
from ipaddress import IPv4Address

from rdmp.tls import reserved_role

CONTROLLER = "controller"
"""The SDN controller in a plan, and its certificate role; all connected controllers take its part (`is_controller`).

An agent's participant name is its host's name."""

NETCONF = "netconf"
"""Participant name of the daemon that configures switches by NETCONF."""

HOSTNAME_LIMIT = 63
"""Octets of one DNS label (RFC 1035, 2.3.4): a node's name is its host name."""

ORDINAL_DIGITS = 5


def is_controller(participant: str) -> bool:
    """Tell whether a participant is a controller: ``controller``, ``controller-2`` and so on (`rdmp.tls`)."""
    return reserved_role(participant) == CONTROLLER


def network_key(platform: str, network: str) -> str:
    """The cluster-wide name of a network, ``shop/app``."""
    return f"{platform}/{network}"


def node_name(platform: str, network: str, ordinal: int) -> str:
    """The name of a node, ``shop-app-3``."""
    return f"{platform}-{network}-{ordinal}"


def node_ordinal(platform: str, network: str, name: str) -> int | None:
    """The ordinal in a node's name, or None if it is not a name of this network's nodes."""
    prefix = f"{platform}-{network}-"
    digits = name.removeprefix(prefix)
    if not name.startswith(prefix) or not digits.isascii() or not digits.isdigit():
        return None
    if len(digits) > ORDINAL_DIGITS or digits.startswith("0"):
        return None
    return int(digits)


def free_ordinals(platform: str, network: str, taken: Container[str]) -> Iterator[int]:
    """Positive ordinals whose node name is not in `taken`, rising."""
    ordinal = 1
    while True:
        if node_name(platform, network, ordinal) not in taken:
            yield ordinal
        ordinal += 1


def mac_of(address: IPv4Address) -> str:
    """The MAC address of the node with this address: 02:00 (locally administered, unicast) and its four bytes."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x00" + address.packed)


def platform_document(platform: str) -> str:
    """Key of the document of a platform in the orchestrator's state."""
    return f"platform/{platform}"


def network_document(key: str) -> str:
    """Key of the document of a network, in the orchestrator's state and in the controller's."""
    return f"network/{key}"


def node_document(node: str) -> str:
    """Key of the document of a node in the orchestrator's state."""
    return f"node/{node}"


def binding_document(node: str) -> str:
    """Key of the document of a node in the controller's state."""
    return f"binding/{node}"


def service_document(key: str) -> str:
    """Key of the document of a network's service address in the controller's state."""
    return f"service/{key}"


def maintenance_document(switch: str) -> str:
    """Key of the document of a switch that is out of use in the orchestrator's state."""
    return f"maintenance/{switch}"
