# SPDX-License-Identifier: AGPL-3.0-or-later
"""The two address families as the fields and numbers by which entries name them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from controller.flows import ETH_IPV4, ETH_IPV6, PROTO_ICMP, PROTO_ICMPV6

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Family:
    """One address family.

    ``errors`` are the ICMP types that report an error about a packet: RFC 792 (destination unreachable, time exceeded,
    parameter problem; redirect would let a node steer others), RFC 4443 section 2.1 (types 1 to 4).
    """

    name: str
    eth_type: int
    source: str
    target: str
    icmp: int
    icmp_type: str
    errors: tuple[int, ...]

    @property
    def bits(self) -> int:
        """Width of an address."""
        return 32 if self is IPV4 else 128

    def of(self, *addresses: Address | None) -> Iterator[Address]:
        """Yield those addresses that are of this family."""
        version = 4 if self is IPV4 else 6
        return (address for address in addresses if address is not None and address.version == version)


IPV4 = Family("IPv4", ETH_IPV4, "ipv4_src", "ipv4_dst", PROTO_ICMP, "icmpv4_type", (3, 11, 12))
IPV6 = Family("IPv6", ETH_IPV6, "ipv6_src", "ipv6_dst", PROTO_ICMPV6, "icmpv6_type", (1, 2, 3, 4))
FAMILIES = (IPV4, IPV6)


def family_of(address: Address | Prefix) -> Family:
    """Return the family of an address or a prefix."""
    return IPV4 if address.version == 4 else IPV6


def term(prefix: Prefix) -> tuple[int, int]:
    """Return value and mask by which a field is compared with a prefix."""
    return int(prefix.network_address), int(prefix.netmask)
