# SPDX-License-Identifier: AGPL-3.0-or-later
"""The script by which the shop's HAProxy learns of its neighbours."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odyssey.lab.images import SOURCES

MAINTENANCE, READY = 0x01, 0x00


def load() -> Any:
    """Import the script from the image's sources."""
    spec = importlib.util.spec_from_file_location("shop_balancer", SOURCES / "lb" / "balancer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


balancer = load()


def neighbours(*addresses: str) -> dict[str, Any]:
    nodes = [{"node": f"shop-app-{n}", "address": address} for n, address in enumerate(addresses, 1)]
    ports = [{"protocol": "udp", "port": 53}, {"protocol": "tcp", "port": 8080}]
    return {"node": "shop-lb-1", "revision": 1, "dependencies": {"app": {"ports": ports, "nodes": nodes}}}


class FakeHaproxy:
    """Obeys `set server` as HAProxy does and keeps the number of serving slots after each command."""

    def __init__(self, slots: Sequence[Any]) -> None:
        self.slots = {slot.name: slot for slot in slots}
        self.serving = [self.ready_count()]

    def ready_count(self) -> int:
        return sum(1 for slot in self.slots.values() if slot.ready)

    def execute(self, commands: Sequence[str]) -> None:
        for command in commands:
            words = command.split()
            name = words[2].removeprefix("app/")
            slot = self.slots[name]
            if words[3] == "addr":
                assert not slot.ready, "the address of a serving slot must not change"
                self.slots[name] = balancer.Slot(name, balancer.Target(words[4], int(words[6])), False)
            else:
                self.slots[name] = balancer.Slot(name, slot.target, words[4] == "ready")
            self.serving.append(self.ready_count())

    def targets(self) -> list[Any]:
        return sorted(slot.target for slot in self.slots.values() if slot.ready)


def slots_for(addresses: Sequence[str], size: int) -> list[Any]:
    used = [balancer.Slot(f"slot{n}", balancer.Target(a, 8080), True) for n, a in enumerate(addresses, 1)]
    free = balancer.Target(balancer.FREE_ADDRESS, 1)
    return used + [balancer.Slot(f"slot{n}", free, False) for n in range(len(used) + 1, size + 1)]


def test_targets_are_the_first_tcp_port_of_each_node() -> None:
    assert balancer.targets(neighbours("172.16.20.4", "172.16.20.3")) == [
        balancer.Target("172.16.20.3", 8080),
        balancer.Target("172.16.20.4", 8080),
    ]


def test_the_configuration_has_a_line_for_every_slot() -> None:
    text = balancer.configuration("backend app\n", [balancer.Target("172.16.20.3", 8080)])
    lines = [line.split() for line in text.splitlines() if line.strip().startswith("server")]
    assert lines[0] == ["server", "slot1", "172.16.20.3:8080"]
    assert len(lines) == balancer.SLOTS
    assert all(line[-1] == "disabled" for line in lines[1:])


def test_more_neighbours_than_slots_are_refused() -> None:
    many = [balancer.Target(f"172.16.20.{n}", 8080) for n in range(1, balancer.SLOTS + 2)]
    with pytest.raises(ValueError, match="65 neighbours"):
        balancer.configuration("", many)


def test_the_state_listing_of_haproxy_is_read() -> None:
    text = (
        "1\n"
        "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_port\n"
        "3 app 1 slot1 172.16.20.3 2 0 8080\n"
        "3 app 2 slot2 0.0.0.0 0 5 1\n"
    )
    assert balancer.parse_slots(text) == [
        balancer.Slot("slot1", balancer.Target("172.16.20.3", 8080), True),
        balancer.Slot("slot2", balancer.Target("0.0.0.0", 1), False),
    ]


def test_a_returning_node_gets_its_old_slot_back() -> None:
    haproxy = FakeHaproxy(slots_for(["10.0.0.1", "10.0.0.2"], 4))
    one, two = balancer.Target("10.0.0.1", 8080), balancer.Target("10.0.0.2", 8080)
    haproxy.execute(balancer.changes(list(haproxy.slots.values()), [one]))
    assert balancer.changes(list(haproxy.slots.values()), [one, two]) == ["set server app/slot2 state ready"]


addresses = st.lists(st.integers(1, 12).map(lambda n: f"10.0.0.{n}"), unique=True, max_size=6)


@given(before=addresses, after=addresses, size=st.integers(6, 14))
def test_any_change_ends_as_wanted_and_is_never_without_a_server(
    before: list[str], after: list[str], size: int
) -> None:
    haproxy = FakeHaproxy(slots_for(before, size))
    wanted = sorted(balancer.Target(address, 8080) for address in after)
    haproxy.execute(balancer.changes(list(haproxy.slots.values()), wanted))
    assert haproxy.targets() == wanted
    assert balancer.changes(list(haproxy.slots.values()), wanted) == []
    if before and after and len(before) < size:
        assert min(haproxy.serving) >= 1
