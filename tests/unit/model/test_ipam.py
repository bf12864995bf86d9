# SPDX-License-Identifier: AGPL-3.0-or-later
"""Addresses in aligned blocks per host."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odyssey.model.ipam import AddressPool, address6_of, block_prefix, usable
from odyssey.model.naming import mac_of

NET = IPv4Network("10.0.0.0/24")


def give(pool: AddressPool, *hosts: str) -> list[str]:
    """The addresses given to nodes on these hosts, in order."""
    return [str(pool.allot(host)) for host in hosts]


@pytest.mark.parametrize(("length", "block"), [(8, 27), (16, 27), (24, 27), (26, 29), (27, 30), (28, 30), (30, 30)])
def test_blocks_fit_the_subnet(length: int, block: int) -> None:
    assert block_prefix(IPv4Network(f"10.0.0.0/{length}")) == block


def test_each_host_has_its_own_block() -> None:
    assert give(AddressPool(NET, {}), "h1", "h2", "h1", "h3", "h2") == [
        "10.0.0.2", "10.0.0.32", "10.0.0.3", "10.0.0.64", "10.0.0.33",
    ]  # fmt: skip


def test_a_host_gets_a_second_block_when_its_first_is_full() -> None:
    pool = AddressPool(NET, {IPv4Address(f"10.0.0.{low}"): "h1" for low in range(2, 32)})
    assert give(pool, "h2", "h1", "h1") == ["10.0.0.32", "10.0.0.64", "10.0.0.65"]


def test_a_freed_address_in_a_block_is_used_first() -> None:
    pool = AddressPool(NET, {IPv4Address("10.0.0.2"): "h1", IPv4Address("10.0.0.5"): "h1"})
    assert give(pool, "h1", "h1") == ["10.0.0.3", "10.0.0.4"]


def test_without_a_free_block_any_address_will_do() -> None:
    net = IPv4Network("10.0.0.0/29")
    assert give(AddressPool(net, {}), "h1", "h2", "h3") == ["10.0.0.2", "10.0.0.4", "10.0.0.3"]


def test_a_held_address_is_not_given_and_its_block_is_left_alone() -> None:
    assert give(AddressPool(NET, {}, [IPv4Address("10.0.0.7")]), "h1") == ["10.0.0.32"]


@given(st.integers(20, 30), st.lists(st.integers(1, 12), max_size=80), st.sets(st.integers(0, 63), max_size=20))
def test_every_usable_address_is_given_once(length: int, hosts: list[int], held: set[int]) -> None:
    net = IPv4Network(f"10.0.0.0/{length}")
    kept = {net[low] for low in held if low < net.num_addresses}
    pool = AddressPool(net, {}, kept)
    given_out = [address for host in hosts if (address := pool.allot(f"h{host}")) is not None]
    assert len(given_out) == len(set(given_out))
    assert not kept.intersection(given_out)
    assert not {net[0], net[1], net[-1]}.intersection(given_out)
    assert len(given_out) == min(len(hosts), usable(net) - len(kept - {net[0], net[1], net[-1]}))


def test_a_mac_address_follows_from_the_address() -> None:
    assert mac_of(IPv4Address("172.16.20.3")) == "02:00:ac:10:14:03"


def test_reserved_addresses_are_left_out_and_cost_no_block() -> None:
    subnet = IPv4Network("10.0.0.0/24")
    pool = AddressPool(subnet, {}, reserved=[IPv4Address("10.0.0.2"), IPv4Address("10.0.0.1")])
    assert str(pool.allot("h1")) == "10.0.0.3"
    assert usable(subnet, [IPv4Address("10.0.0.2")]) == usable(subnet) - 1
    assert usable(subnet, [IPv4Address("10.0.0.1")]) == usable(subnet), "no node has this one anyway"


@given(st.integers(8, 29), st.integers(0, 2**24 - 1))
def test_an_ipv6_address_is_as_far_from_its_beginning(length: int, distance: int) -> None:
    subnet, subnet6 = IPv4Network((10 << 24, length)), IPv6Network("fd00:0:0:1::/64")
    address = subnet.network_address + distance % subnet.num_addresses
    found = address6_of(subnet, subnet6, address)
    assert found is not None and found in subnet6
    assert int(found) - int(subnet6.network_address) == int(address) - int(subnet.network_address)
    assert address6_of(subnet, None, address) is None
