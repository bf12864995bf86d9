# SPDX-License-Identifier: AGPL-3.0-or-later
"""LLDP on real switches: wrong cables are found, containers cannot forge them, floods hold nobody up."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest_asyncio

from controller.cabling import Heard
from controller.fabric import Port
from controller.lldp import Signer
from tests.integration.controller_harness import Controller, intent
from tests.integration.controller_support import CLONE_NEWNET, PREFIX, Lab, Pki, inside
from tests.unit.controller import samples

pytest_plugins = ["tests.integration.controller_fixtures"]
TRUNK = {Port("sw1", 101): Heard(Port("sw2", 101)), Port("sw2", 101): Heard(Port("sw1", 101))}


@pytest_asyncio.fixture
async def quick(ctl_lab: Lab, ctl_pki: Pki) -> AsyncIterator[Controller]:
    controller = Controller(ctl_lab, ctl_pki, lldp_seconds=0.3)
    await controller.start()
    await controller.attach()
    yield controller
    await controller.stop()
    ctl_lab.forget()


def raw(netns: str, interface: str) -> socket.socket:
    """Return a packet socket on an interface of a namespace."""
    made: list[socket.socket] = []

    def make() -> None:
        with open(f"/run/netns/{PREFIX}{netns}", "rb") as file:
            assert ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) == 0
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88CC))
        one.bind((interface, 0))
        made.append(one)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


async def cables(controller: Controller, **hosts: Any) -> dict[str, str]:
    async def nothing(_: Any) -> None: ...

    answer = await controller.participant.call("cabling", {"hosts": hosts}, nothing)
    return {cable["at"]: cable["text"] for cable in answer["cables"]}


async def test_the_trunk_is_heard_and_a_wrong_cable_is_named(quick: Controller, ctl_lab: Lab) -> None:
    await quick.carry_out(intent())
    discovery = quick.participant.discovery
    await quick.until(lambda: discovery.heard() == TRUNK, "both ends of the trunk were heard")
    assert await cables(quick) == {"sw1:101": "sw1:101: sw2:101", "sw2:101": "sw2:101: sw1:101"}
    other = samples.inventory()
    other["fabric"]["links"][0]["b"]["port"] = 99
    await quick.carry_out({"inventory": other})
    await quick.until(lambda: quick.topics("switch.cabling"), "an event")
    assert (await cables(quick))["sw1:101"] == "sw1:101 is cabled to sw2:101; the inventory says sw2:99"


async def test_a_cable_that_is_too_narrow_is_named(quick: Controller) -> None:
    await quick.carry_out(intent())
    discovery = quick.participant.discovery
    await quick.until(lambda: discovery.heard() == TRUNK, "both ends of the trunk were heard")
    jumbo = samples.inventory()
    jumbo["fabric"]["mtu"] = 9000
    await quick.carry_out({"inventory": jumbo})
    narrow = "sw1:101 hears sw2:101, but no frames of the fabric's MTU of 9000 bytes arrive"
    await quick.until(lambda: told(quick) >= {narrow}, "the trunk carries 1500 bytes only")
    interfaces = [("sw1", "trunk"), ("sw2", "trunk")]
    try:
        for netns, interface in interfaces:
            inside(netns, "ip", "link", "set", interface, "mtu", "9004")
        await quick.until(lambda: discovery.heard() == TRUNK, "jumbo frames pass the trunk")
    finally:
        for netns, interface in interfaces:
            inside(netns, "ip", "link", "set", interface, "mtu", "1500")


def told(controller: Controller) -> set[str]:
    """The cabling faults of the last event."""
    events = controller.topics("switch.cabling")
    return set(events[-1]["wrong"]) if events else set()


async def test_a_host_hears_its_switch_port(quick: Controller) -> None:
    await quick.carry_out(intent())
    with raw("h1", "eth0") as nic:
        nic.settimeout(5)
        frame = await asyncio.to_thread(nic.recv, 2000)
        assert len(frame) == 1514, "the larger frame comes first"
    signature = frame[frame.index(bytes.fromhex("020df001")) + 4 :][:40]
    told: dict[str, Any] = {"datapathId": f"{1:016x}", "port": 1, "heard": 0.1, "bytes": len(frame)}
    told["signature"] = base64.b64encode(signature).decode()
    right, wrong = {"switch": "sw1", "port": 1}, {"switch": "sw2", "port": 1}
    assert (await cables(quick, h1={"eth0": {"lldp": told, "attachment": right}}))["h1 eth0"] == "h1 eth0: sw1:1"
    found = await cables(quick, h1={"eth0": {"lldp": told, "attachment": wrong}})
    assert found["h1 eth0"] == "h1 eth0 is cabled to sw1:1; the inventory says sw2:1"
    forged = dict(told, port=2)
    found = await cables(quick, h1={"eth0": {"lldp": forged, "attachment": right}})
    assert found["h1 eth0"] == "h1 eth0 hears nothing; the inventory says sw1:1"


@contextlib.contextmanager
def flood(netns: str, interface: str, frame: bytes) -> Iterator[list[int]]:
    """Send a frame as often as possible until the end of the block; the list has how often."""
    count, going = [0], True

    def work() -> None:
        with raw(netns, interface) as out:
            while going:
                with contextlib.suppress(OSError):  # the queue of the interface is full
                    out.send(frame)
                count[0] += 1

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield count
    finally:
        going = False
        thread.join()


async def test_a_flood_of_forged_frames_is_metered_and_holds_nobody_up(quick: Controller, ctl_lab: Lab) -> None:
    await quick.carry_out(intent())
    discovery = quick.participant.discovery
    await quick.until(lambda: discovery.heard() == TRUNK, "both ends of the trunk were heard")
    forged = Signer(b"?" * 32, 15_000).frame(0x0200AC101402, 2, 5, 1)
    before = discovery.counts.forged
    with flood("app-1", "fab0", forged) as sent:
        for number in range(10):
            await quick.phase("app-2", "draining" if number % 2 else "admitted")
        await asyncio.sleep(2.0)
        assert discovery.heard() == TRUNK, "the trunks have a meter of their own"
    passed = discovery.counts.forged - before
    assert 0 < passed < sent[0] / 4, "most were dropped in the switch"
    assert (await cables(quick))["sw1:101"] == "sw1:101: sw2:101"
    packets = int(counter(ctl_lab, "priority=350,in_port=1,").split("n_packets=")[1].split(",")[0])
    assert packets >= passed


def counter(ctl_lab: Lab, entry: str) -> str:
    lines = ctl_lab.switches["sw1"].ofctl("dump-flows", "table=0").splitlines()
    return next(line for line in lines if entry in line)
