# SPDX-License-Identifier: AGPL-3.0-or-later
"""The measurements: one addNode with the time of each message, its first packet, and a bare `docker run` beside it."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odyssey.demo import frames, netns, observe, web
from odyssey.demo.matrix import Station
from odyssey.demo.sniffer import ETH_P_ALL, PACKET_IGNORE_OUTGOING, SOL_PACKET, new_run
from odyssey.demo.world import World, WorldError
from rdmp.client import Client
from rdmp.endpoints import Endpoint

CALL_TIMEOUT = 120.0  # s
PROBE_INTERVAL = 0.0005  # s between two frames that ask whether the way is open
PROBE_LIMIT = 60.0  # s
ASK_INTERVAL = 0.01  # s between two requests that ask whether the node serves
ASK_TIMEOUT = 2.0  # s for one of them
SOURCE_PORT = 24100  # below the kernel's own range
PORT = 8080


@dataclass(frozen=True, slots=True)
class Hop:
    """Something that happened in an addNode, and when (monotonic seconds since the call left)."""

    at: float
    name: str


@dataclass(frozen=True, slots=True)
class AddNode:
    """One addNode. All times in seconds since the call left, but `first_packet`: since the decision."""

    hops: tuple[Hop, ...]
    decided: float
    serving: float
    first_packet: float
    answered: float


@dataclass(frozen=True, slots=True)
class Bare:
    """One bare `docker run`: until the command returned, and until the program in it accepts connections."""

    returned: float
    listening: float


class Gate:
    """Sends a frame every half millisecond to an address that nothing reaches yet, and sees when the first arrives.

    The frames leave an lb node, like its first connection; they are seen on the network card of the new node's host.
    """

    def __init__(self, source: Station, target: str, host_taps: Mapping[Path, str], fabric_mac: str) -> None:
        self._run = new_run()
        mark = frames.token(self._run, 1)
        segment = frames.tcp((source.address, SOURCE_PORT), (target, PORT), mark)
        packet = frames.ipv4(source.address, target, frames.TCP, segment)
        self._frame = frames.ethernet(source.mac, fabric_mac, frames.ETH_IPV4, packet)
        self._sender = netns.open_socket(source.namespace, socket.AF_PACKET, socket.SOCK_RAW)
        self._sender.bind((source.nics[0], 0))
        self._taps = []
        for namespace, nic in host_taps.items():
            tap = netns.open_socket(namespace, socket.AF_PACKET, socket.SOCK_RAW)
            tap.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            tap.bind((nic, ETH_P_ALL))
            self._taps.append(tap)

    async def opened(self) -> float:
        """The monotonic time at which the first frame arrived. Raises `WorldError` if none does."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[float] = loop.create_future()

        def read(tap: socket.socket) -> None:
            frame = tap.recv(2048)
            if frames.find_token(frame) == (self._run, 1) and not arrived.done():
                arrived.set_result(time.monotonic())

        for tap in self._taps:
            loop.add_reader(tap, read, tap)
        end = time.monotonic() + PROBE_LIMIT
        try:
            while not arrived.done() and time.monotonic() < end:
                self._sender.send(self._frame)
                await asyncio.wait([arrived], timeout=PROBE_INTERVAL)
        finally:
            for tap in self._taps:
                loop.remove_reader(tap)
        if not arrived.done():
            raise WorldError(f"no frame reached the new node within {PROBE_LIMIT:g} s")
        return arrived.result()

    def close(self) -> None:
        """Close the sockets."""
        for opened in (self._sender, *self._taps):
            opened.close()


async def add_node(world: World, network: str, *, gate: bool) -> AddNode:
    """Add one node by RPC and time everything that odysseyd tells about it.

    With `gate` the time of the first packet is taken too; its frames cost processor time, so the other times of such a
    run are not used. Without, the node counts as serving when it has answered an HTTP request of an lb node.
    """
    call = f"bench-{secrets.token_hex(4)}"
    request = {
        "SYSServiceID": "addNode",
        "id": call,
        "data": [{"System": {"platform": world.platform, "Network": {"name": network, "Node": {"count": 1}}}}],
        "options": {"dryRun": False, "atomic": False, "index": None},
    }
    asker = next(station for station in await world.stations() if station.network == "lb" and station.admitted)
    watch = _Watch()
    async with Client() as client:
        await client.connect(Endpoint.parse(f"unix:{world.lab.settings.unix_socket}"))
        watch.begin()
        answer = asyncio.create_task(
            client.call("service.call", request, on_progress=watch.progress, timeout=CALL_TIMEOUT)
        )
        address = await _address(world, f"{call}.1")
        if gate:
            opened = await _gate(world, asker, address)
            serving = 0.0
        else:
            opened = 0.0
            serving = await _serving(asker, address, watch)
        document = await answer
        answered = watch.now()
    if document["state"] != "done":
        raise WorldError(f"addNode {call} ended as {document['state']}: {document.get('error')}")
    decided = watch.first("decided")
    return AddNode(
        hops=tuple(watch.hops),
        decided=decided,
        serving=serving,
        first_packet=opened - watch.zero - decided if gate else 0.0,
        answered=answered,
    )


class _Watch:
    """Notes each progress message with its time."""

    def __init__(self) -> None:
        self.zero = 0.0
        self.hops: list[Hop] = []
        self.news = asyncio.Event()

    def begin(self) -> None:
        self.zero = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self.zero

    def progress(self, message: Mapping[str, Any]) -> None:
        name = _name(message)
        if name is not None:
            self.hops = [hop for hop in self.hops if hop.name != name] + [Hop(self.now(), name)]
        self.news.set()

    def first(self, name: str) -> float:
        for hop in self.hops:
            if hop.name == name:
                return hop.at
        raise WorldError(f"odysseyd did not tell of {name!r}, but of {[hop.name for hop in self.hops]}")


def _name(message: Mapping[str, Any]) -> str | None:
    """What a progress message of the first transaction tells, without names of hosts; None if it is of no interest.

    What several agents do comes several times: the last one counts.
    """
    kind, state = message.get("kind"), message.get("state")
    if kind == "plan":
        return "planned"
    if message.get("step") != 1:
        return None
    if kind == "stage":
        who = "controller" if message.get("participant") == "controller" else "agent"
        return f"{message.get('stage')}: {who} {state}"
    if kind != "tx":
        return None
    for participant, answer in (message.get("participants") or {}).items():
        if answer == "yes":
            return "prepared: controller" if participant == "controller" else "prepared: agent"
    return {"preparing": "transaction begins", "committed": "decided", "finished": "finished"}.get(str(state))


async def _address(world: World, tx: str) -> str:
    """The address of the node that a transaction adds, as soon as the transaction is recorded."""
    end = time.monotonic() + CALL_TIMEOUT
    while time.monotonic() < end:
        for record in (await world.ask("tx.list"))["transactions"]:
            if record["id"] == tx:
                changes = (await world.ask("tx.show", {"id": tx}))["changes"]
                return str(next(value["address"] for key, value in changes.items() if key.startswith("node/")))
        await asyncio.sleep(0.01)
    raise WorldError(f"transaction {tx} was not recorded")


async def _gate(world: World, source: Station, address: str) -> float:
    taps = {world.lab.netns(host): "eth0" for host in world.lab.settings.hosts}
    gate = Gate(source, address, taps, await world.fabric_mac())
    try:
        return await gate.opened()
    finally:
        gate.close()


async def _serving(asker: Station, address: str, watch: _Watch) -> float:
    """Ask the node from the decision on, every few milliseconds and not one after the other, until it answers."""
    while all(hop.name != "decided" for hop in watch.hops):
        watch.news.clear()
        await asyncio.wait_for(watch.news.wait(), CALL_TIMEOUT)
    answered: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def ask() -> None:
        try:
            answer = await web.get(asker.namespace, address, PORT, "/healthz", timeout=ASK_TIMEOUT)
        except web.WebError:
            return  # too early: the next one is on its way
        if answer.status == 200 and not answered.done():
            answered.set_result(watch.now())

    attempts: list[asyncio.Task[None]] = []
    while not answered.done() and watch.now() < CALL_TIMEOUT:
        attempts.append(asyncio.create_task(ask()))
        await asyncio.wait([answered], timeout=ASK_INTERVAL)
    for attempt in attempts:
        attempt.cancel()
    if not answered.done():
        raise WorldError(f"{address} did not answer within {CALL_TIMEOUT:g} s")
    return answered.result()


def docker_run(world: World, host: str, image: str, node: str) -> Bare:
    """`docker run -d --network none` of the same image with the same mounts, by the docker command on the same host.

    The mounts are those of a running node, so that the program finds its files and starts.
    """
    engine = world.lab.docker_socket(host)
    mounts = observe.ask_engine(engine, f"/containers/{node}/json")["Mounts"]
    binds = [f"--volume={mount['Source']}:{mount['Destination']}:ro" for mount in mounts if mount["Type"] == "bind"]
    name = f"bench-bare-{secrets.token_hex(3)}"
    docker = ["docker", "-H", f"unix://{engine}"]
    begun = time.monotonic()
    _run([*docker, "run", "-d", "--network", "none", "--name", name, *binds, image])
    returned = time.monotonic() - begun
    try:
        pid = int(observe.ask_engine(engine, f"/containers/{name}/json")["State"]["Pid"])
        listening = asyncio.run(_listening(pid)) - begun
    finally:
        _run([*docker, "rm", "-f", "-v", name])
    return Bare(returned, listening)


async def _listening(pid: int) -> float:
    end = time.monotonic() + CALL_TIMEOUT
    while time.monotonic() < end:
        try:
            (await web.connect(netns.of_pid(pid), "127.0.0.1", PORT, 1.0)).close()
            return time.monotonic()
        except (OSError, TimeoutError):
            await asyncio.sleep(0.002)
    raise WorldError("the program in the bare container does not listen")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_TIMEOUT, check=False)
    if done.returncode != 0:
        raise WorldError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def processor() -> str:
    """The name of the processor."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        found = re.search(r"model name\s*:\s*(.+)", file.read())
    return found[1] if found else "unknown processor"
