# SPDX-License-Identifier: AGPL-3.0-or-later
"""One run: start the processes, hurt them in an order that the seed gives, heal everything, and judge."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import net, verdict
from tests.integration.rdmp_support import Pki

ROOT = Path(__file__).parents[2]
HUB = "hub"
MEMBERS = ("m1", "m2", "m3", "m4")
CALLERS = ("c1", "c2")
_DISK_MIB = {HUB: 64, **dict.fromkeys(MEMBERS, 16)}
_FAULTS = {"kill": 5, "stop": 4, "fill": 2, "cut": 2, "down": 1, "restart": 1}  # kind -> weight
_AT_ONCE = 3  # faults that overlap
_LONGEST = {"kill": 2.0, "stop": 4.0, "fill": 4.0, "cut": 4.0, "down": 4.0, "restart": 0.5}  # seconds, until healed
_RESTART_PAUSE = 0.3
_HEAL_SECONDS = 90.0


class Process:
    """One process in its namespace, started again whenever it ends, unless it is held down."""

    def __init__(self, kind: str, name: str, folder: Path, network: net.Network, seed: int) -> None:
        self.name = name
        self.folder = folder / name
        self.held = False
        self.starts = 0
        self._command = (
            "ip", "netns", "exec", network.namespace(name), sys.executable, "-m", "tests.chaos.processes", kind,
            str(self.folder), name, str(seed),
        )  # fmt: skip
        self._process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        """Run it until cancelled."""
        while True:
            if self.held:
                await asyncio.sleep(0.02)
                continue
            self.starts += 1
            with (self.folder / "log").open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(*self._command, cwd=ROOT, stdout=log, stderr=log)
            await self._process.wait()
            await asyncio.sleep(_RESTART_PAUSE)

    def signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def ended(self) -> None:
        """Wait until it has ended."""
        if self._process is not None:
            await self._process.wait()


@dataclass
class Run:
    """The state of one run."""

    folder: Path
    seed: int
    seconds: float
    network: net.Network = field(default_factory=net.Network)
    processes: dict[str, Process] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    _busy: set[str] = field(default_factory=set)

    async def go(self) -> dict[str, Any]:
        """Run, judge and return the report."""
        self._prepare()
        keepers = [asyncio.create_task(one.keep()) for one in self.processes.values()]
        began = time.monotonic()
        try:
            await self._hurt(began + self.seconds)
            (self.folder / "quiet").touch()
            await self._settled()
        finally:
            for one in self.processes.values():
                one.signal(signal.SIGCONT)
                one.signal(signal.SIGTERM)
            await asyncio.wait([asyncio.ensure_future(one.ended()) for one in self.processes.values()], timeout=10)
            for one in self.processes.values():
                one.signal(signal.SIGKILL)
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
        return self._judge(time.monotonic() - began)

    def _prepare(self) -> None:
        pki = Pki(self.folder / "pki")
        (self.folder / "members").write_text(" ".join(MEMBERS))
        roles = {HUB: "orchestrator", **dict.fromkeys(MEMBERS, "agent"), **dict.fromkeys(CALLERS, "operator")}
        kinds = {HUB: "hub", **dict.fromkeys(MEMBERS, "member"), **dict.fromkeys(CALLERS, "caller")}
        for number, (name, role) in enumerate(roles.items(), 1):
            pki.issue(role, name)
            (self.folder / name / "disk").mkdir(parents=True)
            if name in _DISK_MIB:
                size = f"size={_DISK_MIB[name]}m,mode=700"
                net.run("mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.folder / name / "disk"))
            if name == HUB:
                self.network.add_hub(name)
            else:
                self.network.add(name, number)
            self.processes[name] = Process(kinds[name], name, self.folder, self.network, self.seed)

    # Faults

    async def _hurt(self, until: float) -> None:
        rng = random.Random(self.seed)
        open_faults: set[asyncio.Task[None]] = set()
        await asyncio.sleep(1.5)
        while time.monotonic() < until:
            await asyncio.sleep(rng.uniform(0.1, 1.5))
            kind = rng.choices(list(_FAULTS), list(_FAULTS.values()))[0]
            names = {"fill": list(_DISK_MIB), "cut": [*MEMBERS, *CALLERS]}
            name = rng.choice(names.get("cut" if kind == "down" else kind, list(self.processes)))
            duration = rng.uniform(0.05, _LONGEST[kind])
            if name not in self._busy and len(self._busy) < _AT_ONCE:
                task = asyncio.create_task(self._fault(kind, name, duration))
                open_faults.add(task)
                task.add_done_callback(open_faults.discard)
            self._look()
        if open_faults:
            await asyncio.gather(*open_faults)

    async def _fault(self, kind: str, name: str, duration: float) -> None:
        self._busy.add(name)
        self.faults[f"{kind} {name.rstrip('0123456789')}"] += 1
        try:
            async with self._applied(kind, name):
                await asyncio.sleep(duration)
        finally:
            self._busy.discard(name)

    @contextlib.asynccontextmanager
    async def _applied(self, kind: str, name: str) -> AsyncIterator[None]:
        process = self.processes[name]
        match kind:
            case "kill" | "restart":
                process.held = True
                process.signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
            case "stop":
                process.signal(signal.SIGSTOP)
            case "fill":
                await asyncio.to_thread(_fill, process.folder / "disk/fill")
            case _:
                await asyncio.to_thread(self.network.cut, name, kind == "cut")
        try:
            yield
        finally:
            process.held = False
            process.signal(signal.SIGCONT)
            (process.folder / "disk/fill").unlink(missing_ok=True)
            if kind in ("cut", "down"):
                await asyncio.to_thread(self.network.mend, name)

    # Judgement

    def _look(self) -> None:
        """Check what must hold at any moment."""
        told, faults = verdict.acknowledged(self.folder / name for name in CALLERS)
        # The worlds are read after the answers: what was acknowledged must be visible.
        for name, lines in verdict.worlds_of(self.folder, MEMBERS).items():
            faults += verdict.world_faults(name, lines, told)
        self._add(faults)

    async def _settled(self) -> None:
        """Wait until every caller is answered and nothing is open; what is left after that is a violation."""
        deadline = time.monotonic() + _HEAL_SECONDS
        while time.monotonic() < deadline:
            await asyncio.sleep(1.0)
            self._look()
            finished = all(["finished"] in verdict.notes(self.folder / name) for name in CALLERS)
            if finished and not verdict.unfinished(verdict.records(self.folder / HUB / "disk/odyssey.db")):
                return

    def _judge(self, seconds: float) -> dict[str, Any]:
        told, faults = verdict.acknowledged(self.folder / name for name in CALLERS)
        words = [line for name in CALLERS for line in verdict.notes(self.folder / name)]
        asked = list(dict.fromkeys(line[1] for line in words if line[0] == "ask"))
        found = verdict.records(self.folder / HUB / "disk/odyssey.db")
        worlds = verdict.worlds_of(self.folder, MEMBERS)
        faults += verdict.end_faults(found, worlds, told, asked)
        for name in MEMBERS:
            faults += verdict.world_faults(name, worlds[name], told)
            faults += verdict.journal_faults(name, self.folder / name / "disk/journal")
        self._add(faults)
        return {
            "seed": self.seed,
            "seconds": round(seconds, 1),
            "faults": dict(sorted(self.faults.items())),
            "starts": {name: one.starts for name, one in self.processes.items()},
            "asked": len(asked),
            "repeated": sum(line[0] == "repeat" for line in words),
            "answered": len(told),
            "committed": sum(one["state"] == "committed" for one in found.values()),
            "aborted": sum(one["state"] == "aborted" for one in found.values()),
            "effects": sum(len(lines) for lines in worlds.values()),
            "violations": self.violations,
        }

    def _add(self, faults: list[str]) -> None:
        self.violations += [fault for fault in dict.fromkeys(faults) if fault not in self.violations]

    def close(self) -> None:
        """Unmount and remove what was made."""
        for name in _DISK_MIB:
            with contextlib.suppress(RuntimeError):
                net.run("umount", "-l", str(self.folder / name / "disk"))
        self.network.close()


def _fill(path: Path) -> None:
    """Fill the file system of a path to the last byte."""
    block = b"\0" * 65536
    with path.open("wb", buffering=0) as file:
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2]


def chaos(seconds: float, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """Run for some seconds and return the report; ``keep`` names a folder that is left for reading."""
    net.remove_leftovers()
    with contextlib.ExitStack() as stack:
        name = f"{net.PREFIX}-{os.getpid()}-"
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=name)))
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(folder, seed, seconds)
        stack.callback(run.close)
        return asyncio.run(run.go())
