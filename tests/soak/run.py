# SPDX-License-Identifier: AGPL-3.0-or-later
"""Switches connect to one odyssey-controller and leave it, thousands of times, in every way that they can.

Two real Open vSwitch switches and some of ``openflow_switch.py``.  Busy times alternate with quiet ones, in which no
switch is connected; what the process holds then is sampled and judged (``judge.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rdmp.decisionlog import MemoryDecisionLog
from rdmp.events import MemoryEventLog
from rdmp.hub import Hub
from rdmp.limits import Limits
from rdmp.records import TxRecord
from tests.integration.controller_process import Daemon
from tests.integration.controller_support import OpenVSwitch, Pki, run
from tests.integration.rdmp_support import Echo
from tests.soak import openflow_switch as of
from tests.soak.judge import Sample, judge, sample
from tests.soak.openflow_switch import OpenFlowSwitch
from tests.unit.controller import samples

REAL = ("sw1", "sw2")
CHEAP = 8
BUSY_SECONDS = 20.0
QUIET_SECONDS = 20.0
"""How long the controller may take to let go of everything: a switch that fell silent is found out in 8 s."""
SETTLED_LOOKS = 5
STAY_SECONDS = 0.3
SILENT = 0.01
"""The part of connections that fall silent instead of ending."""
HARMLESS = {of.HELLO, of.FEATURES_REQUEST, of.MULTIPART_REQUEST, of.ECHO_REQUEST, of.ECHO_REPLY}


@dataclass
class Result:
    """How it went."""

    reconnects: int = 0
    silent: int = 0
    samples: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "before": asdict(self.samples[0]), "after": asdict(self.samples[-1])}


class Soak:
    """The controller and its switches."""

    def __init__(self, folder: Path, hub: Hub, daemon: Daemon, pki: Pki, seed: int) -> None:
        self._hub = hub
        self._daemon = daemon
        self._pki = pki
        self._random = random.Random(seed)
        self.real = [OpenVSwitch(name, number, folder / name) for number, name in enumerate(REAL, start=1)]
        first = len(REAL) + 1
        names = [f"sw{number}" for number in range(first, first + CHEAP)]
        self.cheap = [
            OpenFlowSwitch(name, number, pki.issue("switch", name)) for number, name in enumerate(names, start=first)
        ]
        self.result = Result()

    async def prepare(self) -> None:
        """Start, connect everything and give it an intent."""
        for switch in self.real:
            await asyncio.to_thread(switch.start)
        await self._daemon.start()
        await self._until(lambda: "controller" in self._hub.connected("controller"), "the controller is connected")
        await self._hub.call("controller", "lead", {"generation": 1}, 10.0)
        documents = samples.shop() | {"inventory": samples.inventory(switches=len(REAL) + CHEAP)}
        operation = {"prepare": {"changes": documents}, "stages": {"admit": {"changes": documents}}}
        record = TxRecord("intent", 0, 0, 0, "preparing", {"controller": operation}, ("admit",))
        done = await self._hub.execute(record)
        assert done.state == "committed" and done.finished, done.reason
        await self.all_there()

    async def all_there(self) -> None:
        """Connect every switch and wait until each holds what it should."""
        for switch in self.cheap:
            await switch.connect("127.0.0.1", self._daemon.port)
        await asyncio.gather(*(asyncio.to_thread(self._point, switch) for switch in self.real))

        async def whole() -> bool:
            answer = await self._hub.call("controller", "observe", {}, 10.0)
            rows = answer["switches"].values()
            held = {switch.name: len(switch.entries) for switch in self.cheap}
            counts = all(answer["switches"][name]["entries"] == count for name, count in held.items())
            return counts and all(one["connected"] and one["entries"] and not one["drift"] for one in rows)

        await self._until(whole, "every switch is whole")

    async def all_gone(self) -> None:
        """Disconnect every switch."""
        await asyncio.gather(*(switch.leave() for switch in self.cheap))
        await asyncio.gather(*(asyncio.to_thread(one.vsctl, "del-controller", one.name) for one in self.real))

    def _point(self, switch: OpenVSwitch) -> None:
        switch.set_controller(self._pki.issue("switch", switch.name), self._daemon.port)

    async def busy(self, seconds: float) -> None:
        """Let every switch come and go."""
        end = asyncio.get_running_loop().time() + seconds
        works = [self._come_and_go(switch, end) for switch in self.cheap]
        works += [self._toggle(switch, end) for switch in self.real]
        await asyncio.gather(*works)
        await self.all_gone()

    async def _come_and_go(self, switch: OpenFlowSwitch, end: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            how = self._random.random()
            try:
                await switch.connect("127.0.0.1", self._daemon.port, talk=how > 0.1)
                self.result.reconnects += 1
                if how > 0.2:  # else it leaves before or in the middle of the handshake
                    async with asyncio.timeout(10):
                        await switch.granted.wait()
                if how > 1 - SILENT:
                    switch.silent = True
                    self.result.silent += 1
                    async with asyncio.timeout(QUIET_SECONDS):
                        await switch.closed()
                elif how > 0.5:  # else it leaves while it is read
                    await asyncio.sleep(self._random.uniform(0, STAY_SECONDS))
            except (OSError, TimeoutError) as error:
                self.result.faults.append(f"{switch.name}: {type(error).__name__} {error}")
            await switch.leave(abort=self._random.random() < 0.5)

    async def _toggle(self, switch: OpenVSwitch, end: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            await asyncio.to_thread(self._point, switch)
            self.result.reconnects += 1
            await asyncio.sleep(self._random.uniform(0.2, 1.0))
            await asyncio.to_thread(switch.vsctl, "del-controller", switch.name)

    async def quiet(self, second: float) -> None:
        """Wait until the controller has let go of everything, and take a sample."""
        pid, looks = self._daemon.pid, 0
        loop = asyncio.get_running_loop()
        end, before = loop.time() + QUIET_SECONDS, (0, 0)
        while looks < SETTLED_LOOKS and loop.time() < end:
            await asyncio.sleep(0.2)
            one = sample(pid, second, self.result.reconnects)
            now = one.threads, one.descriptors
            looks, before = (looks + 1, now) if now == before else (0, now)
        self.result.samples.append(sample(pid, second, self.result.reconnects))

    def verdict(self, *, judged: bool) -> None:
        """Add what must never be, and whether anything grew."""
        for switch in self.cheap:
            if strange := switch.before_role - HARMLESS:
                self.result.faults.append(f"{switch.name} was sent {strange} before a role was asked for")
            if switch.refused:
                self.result.faults.append(f"{switch.name} refused {switch.refused} writes of one that was not MASTER")
        if judged:
            self.result.faults += judge(self.result.samples)

    async def close(self) -> None:
        """End everything."""
        await asyncio.gather(*(switch.leave() for switch in self.cheap))
        with contextlib.suppress(ProcessLookupError, AssertionError):
            await self._daemon.end(signal.SIGTERM)
        for switch in self.real:
            switch.stop()
            switch.remove()

    async def _until(self, condition: Any, what: str, seconds: float = 60.0) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not (await found if asyncio.iscoroutine(found := condition()) else found):
            if loop.time() > end:
                raise TimeoutError(f"not within {seconds} s: {what}\n{self._daemon.log()[-4000:]}")
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def site(seed: int, options: Mapping[str, Any] | None = None) -> AsyncIterator[Soak]:
    """A controller process with a hub and switches, all on this machine."""
    folder = Path(tempfile.mkdtemp(prefix="odyssey-soak-"))
    pki = Pki(folder / "pki")
    files = pki.issue("orchestrator", "o1")
    hub = Hub(files.identity(), MemoryDecisionLog(), MemoryEventLog(), Echo(), 1, "i1", Limits())
    port = await hub.serve_tls("127.0.0.1", 0, files.server_context())
    given = {"allow_absent_switches": True, "verify_seconds": 5.0, "log_level": "WARNING", **(options or {})}
    daemon = Daemon(folder / "controller", pki.issue("controller", "controller"), port, **given)
    soak = Soak(folder, hub, daemon, pki, seed)
    try:
        yield soak
    finally:
        await soak.close()
        await hub.close()
        shutil.rmtree(folder, ignore_errors=True)


async def soak_for(seconds: float, seed: int = 1, busy: float = BUSY_SECONDS, *, judged: bool = True) -> Result:
    """Run; returns what was seen."""
    run("ip", "netns", "list")  # fails at once where this is not root on Linux
    async with site(seed) as soak:
        await soak.prepare()
        await soak.all_gone()
        began = asyncio.get_running_loop().time()
        await soak.quiet(0.0)
        while (passed := asyncio.get_running_loop().time() - began) < seconds:
            await soak.busy(min(busy, seconds - passed))
            await soak.quiet(asyncio.get_running_loop().time() - began)
        await soak.all_there()
        soak.verdict(judged=judged)
        return soak.result
