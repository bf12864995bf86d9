# SPDX-License-Identifier: AGPL-3.0-or-later
"""Addresses of a network, allotted in aligned blocks per host.

A block belongs to one host as long as blocks last, so a switch that is far from a host needs one prefix for all of its
nodes there. The network address, the first address and the broadcast address are never used. A node's IPv6 address is
as far from the beginning of the IPv6 subnet as its IPv4 address from that of the IPv4 subnet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

BLOCK_PREFIX = 27
"""Prefix length of a block in a subnet that has room for at least eight of them."""

SMALLEST_BLOCK = 30
UNUSED = 3
"""Addresses of a subnet that no node gets."""


def usable(subnet: IPv4Network, reserved: Collection[IPv4Address] = ()) -> int:
    """How many nodes a subnet can hold; `reserved` are addresses that no node gets."""
    first, last = subnet.network_address, subnet.broadcast_address
    more = sum(address in subnet and address not in {first, first + 1, last} for address in reserved)
    return max(0, subnet.num_addresses - UNUSED - more)


def address6_of(subnet: IPv4Network, subnet6: IPv6Network | None, address: IPv4Address) -> IPv6Address | None:
    """The IPv6 address of the node with this IPv4 address; None in a network without IPv6."""
    if subnet6 is None:
        return None
    return subnet6.network_address + (int(address) - int(subnet.network_address))


def block_prefix(subnet: IPv4Network) -> int:
    """Prefix length of the blocks of a subnet: /27, or an eighth of a smaller subnet, but no smaller than /30."""
    return max(subnet.prefixlen, BLOCK_PREFIX, min(subnet.prefixlen + 3, SMALLEST_BLOCK))


class AddressPool:
    """The free addresses of one subnet while one plan is made.

    `used` maps the addresses of nodes to their hosts; `held` are further addresses that must not be given, because a
    node may have them, and `reserved` those that no node ever has.
    """

    def __init__(
        self,
        subnet: IPv4Network,
        used: Mapping[IPv4Address, str],
        held: Iterable[IPv4Address] = (),
        reserved: Iterable[IPv4Address] = (),
    ) -> None:
        self._first = int(subnet.network_address)
        self._end = self._first + subnet.num_addresses
        self._size = 1 << (32 - block_prefix(subnet))
        self._taken = {self._first, self._first + 1, self._end - 1, *map(int, reserved)}
        self._owner: dict[int, str] = {}
        self._blocks: dict[str, list[int]] = {}
        for address in sorted(used):
            self._take(int(address), used[address])
        for address in held:
            # A held address has no known host; its block is left alone but belongs to nobody.
            self._taken.add(int(address))
            self._owner.setdefault(self._block(int(address)), "")

    def allot(self, host: str) -> IPv4Address | None:
        """Give the next address for a node on `host`; None if the subnet is full.

        First from the blocks of the host, then from a block of nobody, then wherever one is left.
        """
        for block in self._blocks.get(host, ()):
            if (found := self._free_in(block)) is not None:
                return self._take(found, host)
        for block in range(self._first, self._end, self._size):
            if block not in self._owner and (found := self._free_in(block)) is not None:
                return self._take(found, host)
        for address in range(self._first, self._end):
            if address not in self._taken:
                return self._take(address, host)
        return None

    def _block(self, address: int) -> int:
        return address - (address - self._first) % self._size

    def _free_in(self, block: int) -> int | None:
        return next((address for address in range(block, block + self._size) if address not in self._taken), None)

    def _take(self, address: int, host: str) -> IPv4Address:
        self._taken.add(address)
        block = self._block(address)
        if self._owner.setdefault(block, host) == host:
            blocks = self._blocks.setdefault(host, [])
            if block not in blocks:
                blocks.append(block)
        return IPv4Address(address)
