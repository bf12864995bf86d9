# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the measurements share: sizes, a switch with its OpenFlow channel, a fabric with a controller."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.channel import Role
from controller.openflow.channel import OpenFlowChannel
from controller.openflow.terminator import Terminator
from tests.bench.fabric import intents
from tests.bench.rdmp.support import BenchError, Child, children
from tests.integration.controller_harness import Controller
from tests.integration.controller_support import PREFIX, Lab, OpenVSwitch, Pki

Json = dict[str, Any]
CONNECT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    programmed_nodes: int = 6000
    repeats: int = 5
    commits: int = 300
    commit_nodes: tuple[int, ...] = (10, 1000)
    compiled_nodes: tuple[int, ...] = (10, 100, 1000, 10_000)
    compiled_switches: tuple[int, ...] = (2, 10, 100)
    traffic_seconds: int = 5
    traffic_repeats: int = 3
    pings: int = 2000
    reconnect_nodes: int = 1000
    reconnects: int = 10


QUICK = Sizes(
    programmed_nodes=1000,
    repeats=2,
    commits=20,
    commit_nodes=(10,),
    compiled_nodes=(10, 100, 1000),
    compiled_switches=(2, 10),
    traffic_seconds=1,
    traffic_repeats=1,
    pings=200,
    reconnect_nodes=100,
    reconnects=2,
)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that goes away at the end."""
    made = Path(tempfile.mkdtemp(prefix="odyssey-bench-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def one_switch(where: Path) -> Iterator[OpenVSwitch]:
    """An empty Open vSwitch without ports in a namespace of its own."""
    switch = OpenVSwitch("sw1", 1, where / "sw1")
    try:
        switch.start()
        yield switch
    finally:
        switch.stop()
        switch.remove()


@contextlib.contextmanager
def lab(where: Path) -> Iterator[Lab]:
    """Two linked switches, three hosts, a border."""
    made = Lab(where / "lab")
    try:
        made.up()
        yield made
    finally:
        made.down()


@contextlib.asynccontextmanager
async def connected(switch: OpenVSwitch, pki: Pki) -> AsyncIterator[OpenFlowChannel]:
    """The channel to a switch, over mutual TLS as the daemon has it."""
    arrived: asyncio.Queue[OpenFlowChannel] = asyncio.Queue()

    async def arrives(name: str, channel: OpenFlowChannel) -> None:
        await arrived.put(channel)

    context = pki.issue("controller", "controller").server_context()
    terminator = Terminator("lab", context, arrives, lambda address, reason: None)
    port = await terminator.start("0.0.0.0", 0)
    try:
        await asyncio.to_thread(switch.set_controller, pki.issue("switch", switch.name), port)
        async with asyncio.timeout(CONNECT_SECONDS):
            channel = await arrived.get()
            await channel.take_role(Role.MASTER, 1)
        yield channel
    except TimeoutError:
        raise BenchError(f"{switch.name} did not connect within {CONNECT_SECONDS:g} s") from None
    finally:
        await terminator.stop()
        await asyncio.to_thread(switch.vsctl, "del-controller", switch.name)


@dataclass
class Rig:
    """A controller over the two switches of a lab, whose intent has two real nodes: one asks the other."""

    lab: Lab
    controller: Controller
    probe: Child
    documents: Json

    @property
    def asked(self) -> str:
        """The key of the node that is asked."""
        return f"binding/{intents.node_name('app', 0)}"

    async def first_arrival(self, after: int, within: float = CONNECT_SECONDS) -> int:
        """Return when the first datagram arrived that was sent after a time; both in monotonic nanoseconds."""
        answer = await asyncio.to_thread(self.probe.ask, "first", within + 5, after=after, seconds=within)
        if answer["arrived"] is None:
            raise BenchError(f"no datagram of the probe arrived within {within:g} s")
        return int(answer["arrived"])


@contextlib.asynccontextmanager
async def rig(where: Path, nodes: int, pause: float) -> AsyncIterator[Rig]:
    """A fabric of ``nodes`` nodes at work, with a probe that sends a datagram each ``pause`` seconds."""
    documents = intents.lab_documents(nodes)
    asking, asked = (documents[f"binding/{intents.node_name(tier, 0)}"] for tier in ("lb", "app"))
    with lab(where) as made, children() as started:
        for one in (asking, asked):
            await asyncio.to_thread(made.add_node, one["node"], one["host"], one["address"])
        controller = Controller(made, Pki(where / "pki"))
        await controller.start()
        try:
            await controller.attach()
            await controller.carry_out(documents)
            places = {end: f"/run/netns/{PREFIX}{one['node']}" for end, one in (("from", asking), ("to", asked))}
            settings = {**places, "target": asked["address"], "port": intents.PROBE_PORT, "pause": pause}
            started.append(Child("probe", settings, package="tests.bench.fabric"))
            await asyncio.to_thread(started[0].answer)
            found = Rig(made, controller, started[0], documents)
            await found.first_arrival(0)
            yield found
        finally:
            await controller.stop()


async def until(condition: Callable[[], Any], what: str, seconds: float = CONNECT_SECONDS) -> Any:
    """Wait for a condition; returns its value."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (value := condition()):
        if loop.time() > deadline:
            raise BenchError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.001)
    return value
