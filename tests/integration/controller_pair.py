# SPDX-License-Identifier: AGPL-3.0-or-later
"""A whole odysseyd, two odyssey-controller processes and two real switches; hosts are agents in memory.

The nodes are namespaces at the places that the plan chose, so that traffic passes the switches.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rdmp.tls import TlsFiles
from tests.integration import controller_support as support
from tests.integration.controller_process import Daemon
from tests.integration.controller_support import Lab, OpenVSwitch
from tests.integration.orchestra import INVENTORY, PLATFORM, Orchestra

FIRST, SECOND = "controller", "controller-2"
#: What a controller may send before it has a role: none of it changes anything (OpenFlow 1.3.5, 6.3.6).
HARMLESS = {
    "OFPT_HELLO",
    "OFPT_FEATURES_REQUEST",
    "OFPST_PORT_DESC",
    "OFPT_ECHO_REQUEST",
    "OFPT_ECHO_REPLY",
    "OFPT_ROLE_REQUEST",
}
READS = {"OFPT_BARRIER_REQUEST", "OFPST_FLOW", "OFPST_GROUP_DESC", "OFPST_METER_CONFIG", "OFPST_AGGREGATE"}
_REFUSED = re.compile(r"\|vconn\|DBG\|(\S+): sent \(Success\): OFPT_ERROR .*OFPBRC_IS_(?:SLAVE|SECONDARY)")
_RECEIVED = re.compile(r"\|vconn\|DBG\|(\S+): received: (OFP\S+)(.*)")


class Pair:
    """The whole site; ``daemons`` are the controllers by name."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.orchestra = Orchestra(folder, controllers=())
        self.orchestra.rdmp |= {"stage_wait": 20.0, "heartbeat": 0.5}
        self.daemons: dict[str, Daemon] = {}
        self.nodes: dict[str, Mapping[str, Any]] = {}

    async def up(self) -> None:
        self.lab.forget()
        await self.orchestra.start()
        await self.orchestra.join()
        for name in (FIRST, SECOND):
            self.daemons[name] = Daemon(self.folder / name, self._files("controller", name), self.orchestra.port)
            await self.daemons[name].start()
        await self.in_step(FIRST, SECOND)
        await self.leader()
        ports = [daemon.port for daemon in self.daemons.values()]
        for name, switch in self.lab.switches.items():
            log_messages(switch)
            await asyncio.to_thread(switch.set_controller, self._files("switch", name), *ports)
        await self.eventually(lambda: all(len(one.roles()) == 2 for one in self.lab.switches.values()), "connections")
        await self.serve("setInventory", "inventory", {"document": INVENTORY})
        await self.serve("addPlatform", "shop", {"document": PLATFORM})
        await self.attach()

    async def down(self) -> None:
        for daemon in self.daemons.values():
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                daemon.send(signal.SIGCONT)
                await daemon.end(signal.SIGKILL)
        await self.orchestra.leave()
        await self.orchestra.stop()

    def _files(self, role: str, name: str) -> TlsFiles:
        folder = self.folder / "certificates" / f"{role}-{name}"
        if not folder.exists():
            self.orchestra.authority.issue(role, name, folder)
        return TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")

    async def serve(self, service: str, call: str, system: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make a service call that must be done."""
        answer = await self.orchestra.serve(service, call, system)
        assert answer["state"] == "done", (answer, self.logs())
        return answer

    async def attach(self) -> None:
        """Make a namespace of each node at its place."""
        for node in (await self.orchestra.ask("node.list"))["nodes"]:
            self.nodes[node["node"]] = node
            if node["node"] not in self.lab.nodes:
                await asyncio.to_thread(self.lab.add_node, node["node"], node["host"], node["address"])

    async def status(self) -> Mapping[str, Any]:
        return await self.orchestra.ask("status")

    async def leader(self, *names: str) -> str:
        """Wait until somebody leads (of these, if any are named) and is known to; returns the name."""
        found = ""

        async def leads() -> bool:
            nonlocal found
            rows = (await self.status())["controllers"]
            found = next((row["name"] for row in rows if row["leads"] and row["inStep"]), "")
            return found in names if names else bool(found)

        await self.eventually(leads, f"one of {names or 'all'} leads")
        return found

    def other(self, name: str) -> str:
        return SECOND if name == FIRST else FIRST

    async def in_step(self, *names: str) -> None:
        async def found() -> bool:
            return {row["name"] for row in (await self.status())["controllers"] if row["inStep"]} == set(names)

        await self.eventually(found, f"{names} are in step")

    async def roles(self, leader: str | None, follower: str | None) -> None:
        """Wait until every switch sees these roles."""
        wanted = {}
        if leader is not None:
            wanted[self.daemons[leader].port] = "master"
        if follower is not None:
            wanted[self.daemons[follower].port] = "slave"
        await self.eventually(
            lambda: all(switch.roles() == wanted for switch in self.lab.switches.values()), f"the roles are {wanted}"
        )

    async def eventually(self, condition: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not (await found if asyncio.iscoroutine(found := condition()) else found):
            assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}\n{self.logs()}"
            await asyncio.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(f"{name}:\n{daemon.log()[-4000:]}" for name, daemon in self.daemons.items())

    def flows(self) -> dict[str, list[str]]:
        return {name: switch.flows() for name, switch in self.lab.switches.items()}

    def ages(self) -> dict[str, dict[str, tuple[float, int]]]:
        return {name: ages(switch) for name, switch in self.lab.switches.items()}

    async def observe(self, name: str) -> Mapping[str, Any]:
        assert self.orchestra.hub is not None
        return await self.orchestra.hub.call(name, "observe", {}, 10.0)

    async def phase(self, name: str, tx: str) -> str:
        """Return where a transaction stands in the journal of a controller."""
        assert self.orchestra.hub is not None
        status = await self.orchestra.hub.call(name, "status", {"tx": tx}, 10.0)
        return str(status["journal"]["phase"])

    def lose_state(self, name: str) -> None:
        """Let a controller that is not running have no journal and no memory of its appointment."""
        shutil.rmtree(self.daemons[name].folder / "state")


def ages(switch: OpenVSwitch) -> dict[str, tuple[float, int]]:
    """Return age in seconds and number of packets of each entry, by its text without counters."""
    found = {}
    for line in switch.ofctl("dump-flows").splitlines():
        if counted := re.search(r"duration=([\d.]+)s, .*n_packets=(\d+)", line):
            text = re.sub(r"(duration|n_packets|n_bytes|idle_age)=[\d.]+s?, ", "", line)
            found[text] = float(counted[1]), int(counted[2])
    return found


def untouched(
    before: Mapping[str, Mapping[str, tuple[float, int]]], after: Mapping[str, Mapping[str, tuple[float, int]]]
) -> None:
    """Assert that both hold the same entries, and that none of them was written again."""
    for name in before:
        assert before[name].keys() == after[name].keys()
        for entry, (age, packets) in before[name].items():
            assert after[name][entry][0] >= age, f"{name}: written again: {entry}"
            assert after[name][entry][1] >= packets, f"{name}: its counter began anew: {entry}"


def log_messages(switch: OpenVSwitch) -> None:
    """Let a switch write every OpenFlow message to its log."""
    control = f"{switch.directory}/ovs-vswitchd.ctl"
    support.run("ovs-appctl", "-t", control, "vlog/set", "vconn:file:dbg")
    support.run("ovs-appctl", "-t", control, "vlog/disable-rate-limit", "vconn")


def messages(switch: OpenVSwitch, port: int) -> list[tuple[str, str]]:
    """Return type and details of all messages that a switch has received from the controller with this port."""
    text = (switch.directory / "ovs-vswitchd.log").read_text(errors="replace")
    found = []
    for line in text.splitlines():
        if (match := _RECEIVED.search(line)) and match[1].endswith(f":{port}"):
            found.append((match[2], match[3]))
    return found


def refused(switch: OpenVSwitch, port: int) -> int:
    """Return how many messages a switch refused to the controller with this port because it is a slave."""
    text = (switch.directory / "ovs-vswitchd.log").read_text(errors="replace")
    return sum(match[1].endswith(f":{port}") for match in _REFUSED.finditer(text))


def writes(received: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the messages that change something, or send packets."""
    return [one for one in received if one[0] not in HARMLESS | READS]


class Traffic:
    """One TCP connection that asks and is answered all the time, and new ones beside it; counts what fails."""

    def __init__(self, source: str, address: str, port: int) -> None:
        self._where = source, address, port
        self.answers = 0
        self.opened = 0
        self.faults: list[str] = []
        self._stop = threading.Event()

    def _ask(self) -> None:
        with support.connect(*self._where) as kept:
            kept.settimeout(2.0)
            while not self._stop.is_set():
                try:
                    assert support.echo(kept) == b"hello"
                    self.answers += 1
                    with support.connect(*self._where, seconds=2.0) as new:
                        assert support.echo(new) == b"hello"
                    self.opened += 1
                except (OSError, AssertionError) as error:
                    self.faults.append(f"{type(error).__name__}: {error}")
                    return
                time.sleep(0.002)

    @contextlib.contextmanager
    def flowing(self) -> Iterator[Traffic]:
        """Keep it up during a block, which it must outlive without a fault."""
        thread = threading.Thread(target=self._ask, daemon=True)
        thread.start()
        try:
            support.wait_until(lambda: self.opened or self.faults, "traffic flows")
            yield self
            seen = self.opened
            support.wait_until(lambda: self.opened > seen or self.faults, "traffic still flows")
        finally:
            self._stop.set()
            thread.join()
        assert self.faults == []
