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
from tests.bench.rdmp.support import BenchError, Child
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
class Fabric:
    """A controller over the two switches of a lab, whose intent has two real nodes: one may ask the other."""

    lab: Lab
    controller: Controller
    documents: Json

    @property
    def asking(self) -> Json:
        """The binding of the node that asks."""
        return dict(self.documents[f"binding/{intents.node_name('lb', 0)}"])

    @property
    def asked(self) -> Json:
        """The binding of the node that is asked."""
        return dict(self.documents[f"binding/{intents.node_name('app', 0)}"])


@contextlib.asynccontextmanager
async def fabric(where: Path, nodes: int) -> AsyncIterator[Fabric]:
    """A fabric of ``nodes`` nodes at work."""
    with lab(where) as made:
        controller = Controller(made, Pki(where / "pki"))
        found = Fabric(made, controller, intents.lab_documents(nodes))
        for one in (found.asking, found.asked):
            await asyncio.to_thread(made.add_node, one["node"], one["host"], one["address"])
        await controller.start()
        try:
            await controller.attach()
            await controller.carry_out(found.documents)
            yield found
        finally:
            await controller.stop()


class Probe:
    """Datagrams from the node that asks to the one that is asked, one each ``pause`` seconds."""

    def __init__(self, made: Fabric, pause: float) -> None:
        ends = (("from", made.asking), ("to", made.asked))
        places = {end: f"/run/netns/{PREFIX}{one['node']}" for end, one in ends}
        settings = {**places, "target": made.asked["address"], "port": intents.PROBE_PORT, "pause": pause}
        self._child = Child("probe", settings, package="tests.bench.fabric")

    async def ready(self) -> None:
        """Wait until the first datagram arrived."""
        await asyncio.to_thread(self._child.answer)
        await self.first_arrival(0)

    async def arrival(self, after: int, within: float) -> int | None:
        """Return when the first datagram arrived that was sent after a time; both in monotonic nanoseconds."""
        answer = await asyncio.to_thread(self._child.ask, "first", within + 5, after=after, seconds=within)
        return None if answer["arrived"] is None else int(answer["arrived"])

    async def first_arrival(self, after: int) -> int:
        """The same; raises BenchError if none arrives for long."""
        arrived = await self.arrival(after, CONNECT_SECONDS)
        if arrived is None:
            raise BenchError(f"no datagram of the probe arrived within {CONNECT_SECONDS:g} s")
        return arrived

    async def forget(self) -> None:
        """Drop what arrived so far."""
        await asyncio.to_thread(self._child.ask, "forget")

    def stop(self) -> None:
        """End its process."""
        self._child.stop()


@contextlib.asynccontextmanager
async def probing(made: Fabric, pause: float) -> AsyncIterator[Probe]:
    """A probe at work."""
    probe = Probe(made, pause)
    try:
        await probe.ready()
        yield probe
    finally:
        probe.stop()


async def until(condition: Callable[[], Any], what: str, seconds: float = CONNECT_SECONDS) -> Any:
    """Wait for a condition; returns its value."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (value := condition()):
        if loop.time() > deadline:
            raise BenchError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.001)
    return value
