# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence, Set

import pytest

from agents.attachment import Standing
from agents.facts import HostNic
from agents.namespace import Namespace, NamespaceGone
from agents.network import Network, NetworkError
from agents.plugs import PARALLEL, Plugs
from agents.spec import Attachment
from tests.unit.agents.documents import spec

PLAIN = spec().attachment
TAGGED = spec(vlan=120, taggedNics=["eth0"]).attachment
HOLDER = (1, "c" * 64)


class FakeNetwork(Network):
    """A host without `ip`: notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__("odyssey:c:h1")
        self.stood: list[Standing] = []
        self.said: list[str] = []
        self.vlans: set[str] = set()
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = self.most_at_once = 0

    async def host_nics(self) -> Mapping[str, HostNic]:
        return {}

    async def make_vlans(self, attachment: Attachment, nics: Mapping[str, HostNic]) -> Mapping[str, HostNic]:
        self.vlans |= attachment.vlan_interfaces
        return nics

    async def has_vlans(self) -> bool:
        return bool(self.vlans)

    async def drop_vlans(self, needed: Set[str]) -> Sequence[str]:
        self.said.append(f"drop all but {sorted(needed)}")
        self.vlans &= needed
        return ()

    async def attach(
        self, attachment: Attachment, standing: Standing, namespace: Namespace, nics: Mapping[str, HostNic]
    ) -> None:
        self.said.append("attach")
        await self.gate.wait()
        if attachment.vlan_interfaces - self.vlans:
            raise NetworkError("no parent")
        self.stood.append(standing)

    async def mend(
        self, attachment: Attachment, standing: Standing, namespace: Namespace, nics: Mapping[str, HostNic]
    ) -> tuple[str, ...]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.fails:
            raise NetworkError("ip failed")
        self.stood.append(standing)
        return ()

    async def detach(self, namespace: Namespace) -> None:
        self.said.append("detach")


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """This process's own namespace, which every container is taken to live in."""

    def opened(pid: int, container: str) -> Namespace:
        if pid == 0:
            raise NamespaceGone("it ended")
        return Namespace(os.open("/proc/self/ns/net", os.O_RDONLY))

    monkeypatch.setattr(Namespace, "of_container", opened)
    return opened(1, "")


def plugs(network: FakeNetwork, needed: Set[str] | None = frozenset()) -> Plugs:
    async def in_use() -> Set[str] | None:
        return needed

    return Plugs(network, in_use)


async def test_all_follow_a_preference_and_so_do_later_ones(network: FakeNetwork, here: Namespace) -> None:
    made = plugs(network)
    assert await made.prefer(["eth1"]) == {}
    await made.attach("a-b-1", PLAIN, True, HOLDER, here, {})
    await made.attach("a-b-2", PLAIN, False, HOLDER, here, {})
    await made.prefer(["eth0"])
    first, second = frozenset({"eth1"}), frozenset({"eth0"})
    assert network.stood[:2] == [Standing(True, first), Standing(False, first)]
    assert network.stood[2:] == [Standing(True, second), Standing(False, second)]


async def test_a_preference_waits_for_an_attachment_that_is_being_made(network: FakeNetwork, here: Namespace) -> None:
    made = plugs(network)
    network.gate.clear()
    attaching = asyncio.create_task(made.attach("a-b-1", PLAIN, True, HOLDER, here, {}))
    await asyncio.sleep(0)
    preferring = asyncio.create_task(made.prefer(["eth0"]))
    await asyncio.sleep(0.01)
    assert not preferring.done()
    network.gate.set()
    await asyncio.gather(attaching, preferring)
    assert network.stood[-1] == Standing(True, frozenset({"eth0"}))


async def test_what_cannot_follow_is_told_and_what_has_ended_is_left(network: FakeNetwork, here: Namespace) -> None:
    made = plugs(network)
    await made.attach("a-b-1", PLAIN, True, HOLDER, here, {})
    await made.attach("a-b-2", PLAIN, True, (0, ""), here, {})
    network.fails = True
    assert await made.prefer(["eth0"]) == {"a-b-1": "ip failed"}
    await made.detach("a-b-1", here)
    assert await made.reroute() == {}


async def test_few_are_brought_into_order_at_once(network: FakeNetwork, here: Namespace) -> None:
    made = plugs(network)
    for number in range(20):
        await made.attach(f"a-b-{number}", PLAIN, True, HOLDER, here, {})
    await made.reroute()
    assert network.most_at_once == PARALLEL


async def test_vlan_interfaces_that_nobody_needs_go(network: FakeNetwork) -> None:
    network.vlans = {"eth0.120", "eth0.130"}
    await plugs(network, None).drop_vlans()  # not known who needs what
    assert network.said == []
    await plugs(network, frozenset({"eth0.130"})).drop_vlans()
    assert network.said == ["drop all but ['eth0.130']"]


async def test_nothing_is_asked_where_there_are_no_vlan_interfaces(network: FakeNetwork) -> None:
    async def in_use() -> Set[str] | None:
        raise AssertionError("asked")

    await Plugs(network, in_use).drop_vlans()


async def test_a_vlan_interface_is_not_removed_below_a_node_that_is_being_attached(
    network: FakeNetwork, here: Namespace
) -> None:
    network.vlans = {"eth0.120"}
    network.gate.clear()
    made = plugs(network, frozenset())
    attaching = asyncio.create_task(made.attach("a-b-1", TAGGED, True, HOLDER, here, {}))
    while "attach" not in network.said:
        await asyncio.sleep(0)
    dropping = asyncio.create_task(made.drop_vlans())
    await asyncio.sleep(0.01)
    assert "eth0.120" in network.vlans
    network.gate.set()
    await asyncio.gather(attaching, dropping)
