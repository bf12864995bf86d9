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

from controller.openflow.channel import OpenFlowChannel
from controller.openflow.terminator import Terminator
from tests.bench.rdmp.support import BenchError
from tests.integration.controller_support import Lab, OpenVSwitch, Pki

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
        yield channel
    except TimeoutError:
        raise BenchError(f"{switch.name} did not connect within {CONNECT_SECONDS:g} s") from None
    finally:
        await terminator.stop()
        await asyncio.to_thread(switch.vsctl, "del-controller", switch.name)


async def until(condition: Callable[[], Any], what: str, seconds: float = CONNECT_SECONDS) -> Any:
    """Wait for a condition; returns its value."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (value := condition()):
        if loop.time() > deadline:
            raise BenchError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.001)
    return value
