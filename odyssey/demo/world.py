# SPDX-License-Identifier: AGPL-3.0-or-later
"""The running lab as the demonstration and the tests use it: ask, command, look, disturb."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from odyssey.demo import audit, netns, observe, policy
from odyssey.demo.matrix import Rule, Station, rules_of, vlans_of
from odyssey.demo.sniffer import Tap
from odyssey.lab import Lab
from odyssey.lab.topology import EDGE_ADDRESS, EDGE_MAC, EDGE_NIC
from rdmp.client import Client
from rdmp.endpoints import Endpoint
from rdmp.rpc import RpcError

NODE_NICS = ("fab0", "fab1")
HOST_NICS = frozenset({"lo", "eth0", "eth1", "mgmt0"})
BORDER = "edge"
NEIGHBOURS_FILE = "run/odyssey/neighbours.json"  # below the root of a container
ASK_TIMEOUT = 10.0  # s for one question to odysseyd
CTL_TIMEOUT = 180.0  # s for one command of odysseyctl
SETTLE_TIMEOUT = 60.0  # s until everybody is connected and every transaction is finished
POLL = 0.1  # s between two looks
TOLD = 5  # lines of odysseyctl that an error repeats

T = TypeVar("T")
Note = Callable[[str], None]


class WorldError(Exception):
    """Something that has to work did not: what, and what was seen instead."""


@dataclass(frozen=True, slots=True)
class CtlResult:
    """How a run of odysseyctl ended."""

    arguments: tuple[str, ...]
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output as JSON (`-o json`)."""
        return json.loads(self.out)

    def reason(self) -> str:
        """What it said at its end, without the progress before."""
        lines = self.err.strip().splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("odysseyctl:")]
        return "\n".join(lines[starts[-1] if starts else -TOLD :])


def quiet(_text: str) -> None:
    """A listener that says nothing."""


class World:
    """A lab with its daemons, and the platform that runs on it."""

    def __init__(self, lab: Lab, platform: Mapping[str, Any]) -> None:
        self.lab = lab
        self.document = platform
        self.platform = str(platform["platform"])
        self.rules: tuple[Rule, ...] = rules_of(platform)
        self.agents = tuple(f"agent-{host}" for host in lab.settings.hosts)
        self.daemons = ("odysseyd", "controller", *self.agents)

    async def ask(self, method: str, params: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """One RPC to odysseyd over its Unix socket. Raises `RpcError` (also if nobody listens)."""
        async with Client() as client:
            await client.connect(Endpoint.parse(f"unix:{self.lab.settings.unix_socket}"))
            return dict(await client.call(method, params or {}, timeout=ASK_TIMEOUT))

    async def start_ctl(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start odysseyctl against this lab, with both outputs as pipes."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from odyssey.cli import main; main()",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "NO_COLOR": "1", "ODYSSEY_LAB": str(self.lab.settings.directory)},
        )

    async def ctl(
        self, *arguments: str, note: Note = quiet, check: bool = True, timeout: float = CTL_TIMEOUT
    ) -> CtlResult:
        """Run odysseyctl to its end; `note` hears each line of progress. Raises `WorldError` if it fails."""
        process = await self.start_ctl(*arguments)
        result = await finish_ctl(process, arguments, note=note, timeout=timeout)
        if check and result.code != 0:
            raise WorldError(f"odysseyctl {' '.join(arguments)} ended with {result.code}: {result.reason()}")
        return result

    def pid(self, daemon: str) -> int:
        """The process number of a daemon. Raises `WorldError` if it does not run."""
        found = self.lab.pid(daemon)
        if found is None:
            raise WorldError(f"{daemon} does not run")
        return found

    async def records(self) -> audit.Records:
        """State documents and transactions of odysseyd."""
        documents = (await self.ask("state.get", {"prefix": ""}))["documents"]
        transactions = []
        for summary in (await self.ask("tx.list"))["transactions"]:
            transactions.append(summary if summary["finished"] else await self.ask("tx.show", {"id": summary["id"]}))
        return audit.Records(documents, transactions)

    async def nodes(self, network: str | None = None, *phases: str) -> list[Mapping[str, Any]]:
        """The node documents of the platform, by name; of one network, in some phases, if given."""
        found = (await self.ask("state.get", {"prefix": "node/"}))["documents"].values()
        chosen = [
            node
            for node in found
            if node["platform"] == self.platform
            and network in (None, node["network"])
            and (not phases or node["phase"] in phases)
        ]
        return sorted(chosen, key=lambda node: (node["network"], node["ordinal"]))

    async def stations(self) -> tuple[Station, ...]:
        """Every node that is recorded, with the namespace of its sandbox, and the border's client."""
        sandboxes = {item.node: item for item in await self.containers(inspect=True) if item.role == observe.SANDBOX}
        found = [self.edge()]
        for node in await self.nodes():
            sandbox = sandboxes.get(node["node"])
            if sandbox is None or not sandbox.pid:
                raise WorldError(f"node {node['node']} is recorded on {node['host']} and has no running sandbox there")
            found.append(
                Station(
                    name=node["node"],
                    network=node["network"],
                    address=node["address"],
                    mac=node["mac"],
                    namespace=netns.of_pid(sandbox.pid),
                    nics=NODE_NICS,
                    host=node["host"],
                    admitted=node["phase"] == "admitted",
                )
            )
        return tuple(found)

    def edge(self) -> Station:
        """The border's client."""
        address = EDGE_ADDRESS.partition("/")[0]
        return Station(BORDER, BORDER, address, EDGE_MAC, self.lab.netns("edge"), (EDGE_NIC,), None)

    def taps(self) -> list[Tap]:
        """The hosts' own cards: what comes in there has been let through by a switch, whoever it is for."""
        return [
            Tap(f"{host} {nic}", self.lab.netns(host), nic)
            for host in self.lab.settings.hosts
            for nic in ("eth0", "eth1")
        ]

    async def fabric_mac(self) -> str:
        """The constant MAC that nodes send to."""
        documents = (await self.ask("state.get", {"prefix": "inventory"}))["documents"]
        return str(documents["inventory"]["fabric"]["mac"])

    async def foreign_tags(self) -> tuple[int, ...]:
        """VLAN ids that no node may use by itself: the networks' and the trunk's."""
        documents = (await self.ask("state.get", {"prefix": "inventory"}))["documents"]
        return (*vlans_of(self.document).values(), int(documents["inventory"]["fabric"]["transitVlan"]))

    async def check_policy(self) -> policy.PolicyResult:
        """All policy probes, on all nodes."""
        mac, tags = await self.fabric_mac(), await self.foreign_tags()
        return await policy.check(await self.stations(), self.rules, self.taps(), fabric_mac=mac, tags=tags)

    async def containers(self, *, inspect: bool = False) -> tuple[observe.Container, ...]:
        """Odyssey's containers on all hosts, from the engines; those of nodes and those of the pool."""
        hosts = self.lab.settings.hosts
        found = await asyncio.gather(
            *(
                asyncio.to_thread(observe.containers, host, self.lab.docker_socket(host), inspect=inspect)
                for host in hosts
            )
        )
        return tuple(container for part in found for container in part)

    async def node_containers(self) -> tuple[observe.Container, ...]:
        """The containers of nodes only, inspected."""
        return tuple(item for item in await self.containers(inspect=True) if item.role != observe.POOL)

    async def flows(self) -> tuple[observe.Flow, ...]:
        """The flow entries of all switches, from the switches."""
        found = await asyncio.gather(
            *(
                asyncio.to_thread(observe.flows, name, switch.management_socket)
                for name, switch in self.lab.switches.items()
            )
        )
        return tuple(flow for part in found for flow in part)

    async def seen(self) -> audit.Seen:
        """Containers, flow entries, neighbour files and left-over NICs, none of it asked from odysseyd."""
        containers = await self.containers(inspect=True)
        return audit.Seen(
            containers=containers,
            flows=await self.flows(),
            switches=tuple(self.lab.switches),
            neighbours=_neighbours(containers),
            links=self._links(containers),
        )

    def _links(self, containers: Sequence[observe.Container]) -> dict[str, list[str]]:
        """What hangs in the hosts' namespaces and in pooled sandboxes beside what belongs there."""
        places = {host: self.lab.netns(host) for host in self.lab.settings.hosts}
        places |= {
            f"{item.host} {item.name}": netns.of_pid(item.pid)
            for item in containers
            if item.role == observe.POOL and item.pid
        }
        return {place: [name for name in _nics(path) if name not in HOST_NICS] for place, path in places.items()}

    async def half_done(self) -> tuple[str, ...]:
        """Everything that no committed decision explains (see `audit`)."""
        return audit.half_done(await self.records(), await self.seen())

    async def kill(self, daemon: str) -> None:
        """SIGKILL a daemon."""
        await asyncio.to_thread(self.lab.stop_daemon, daemon, signal.SIGKILL)

    async def stop(self, *daemons: str) -> None:
        """Stop daemons in an orderly way, all at once."""
        await asyncio.gather(*(asyncio.to_thread(self.lab.stop_daemon, daemon) for daemon in daemons))

    async def start(self, *daemons: str) -> None:
        """Start daemons, all at once."""
        await asyncio.gather(*(asyncio.to_thread(self.lab.start_daemon, daemon) for daemon in daemons))

    async def settled(self, timeout: float = SETTLE_TIMEOUT) -> float:
        """Wait until odysseyd answers, all are connected and no transaction is open; returns the seconds it took."""
        begun = time.monotonic()
        wanted = {"controller", *self.lab.settings.hosts}
        last = "odysseyd does not answer"

        async def look() -> bool:
            nonlocal last
            try:
                status, records = await self.ask("status"), await self.records()
                missing = wanted - {peer["name"] for peer in status["peers"]}
                switches = (await self.ask("switch.list"))["switches"] if "controller" not in missing else []
            except (OSError, RpcError, TimeoutError) as error:
                last = f"odysseyd does not answer: {error}"
                return False
            still = [record["id"] for record in records.open()]
            alone = set(self.lab.switches) - {switch["switch"] for switch in switches if switch["connected"]}
            last = f"missing participants: {sorted(missing)}; open: {still}; switches alone: {sorted(alone)}"
            return not missing and not still and not alone

        await until(look, timeout, lambda: last)
        return time.monotonic() - begun


def _nics(namespace: Path) -> list[str]:
    return [name for _, name in netns.inside(namespace, socket.if_nameindex)]


def _neighbours(containers: Sequence[observe.Container]) -> Mapping[str, Mapping[str, Any]]:
    """The neighbours document inside every running workload, read through /proc."""
    found = {}
    for container in containers:
        file = Path(f"/proc/{container.pid}/root/{NEIGHBOURS_FILE}")
        if container.role == observe.WORKLOAD and container.running and file.exists():
            found[container.node] = json.loads(file.read_text(encoding="utf-8"))
    return found


async def until(condition: Callable[[], Awaitable[bool]], timeout: float, what: Callable[[], str]) -> None:
    """Look again and again until `condition` holds. Raises `WorldError` with `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not await condition():
        if time.monotonic() > end:
            raise WorldError(f"not within {timeout:g} s: {what()}")
        await asyncio.sleep(POLL)


async def finish_ctl(
    process: asyncio.subprocess.Process, arguments: Sequence[str], *, note: Note = quiet, timeout: float = CTL_TIMEOUT
) -> CtlResult:
    """Read odysseyctl's outputs to their end. It is killed, and `WorldError` raised, if that takes too long."""
    assert process.stdout is not None and process.stderr is not None
    lines: list[str] = []

    async def follow(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            text = line.decode("utf-8", "replace")
            lines.append(text)
            if text.strip():
                note(text.strip())

    try:
        async with asyncio.timeout(timeout):
            out, _ = await asyncio.gather(process.stdout.read(), follow(process.stderr))
            code = await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise WorldError(f"odysseyctl {' '.join(arguments)} did not end within {timeout:g} s") from None
    return CtlResult(tuple(arguments), code, out.decode("utf-8", "replace"), "".join(lines))
