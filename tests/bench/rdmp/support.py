# SPDX-License-Identifier: AGPL-3.0-or-later
"""What every measurement needs: child processes that obey JSON lines, quantiles, use of processor, memory and disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
PAGE = os.sysconf("SC_PAGE_SIZE")
PAUSE = 0.02  # s before each operation of an idle service
Json = dict[str, Any]
Handler = Callable[[Json], Awaitable[Json]]


class BenchError(Exception):
    """A measurement could not be made: what, why."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. Times in seconds."""

    seconds: float = 8.0
    idle: int = 500
    fleets: tuple[int, ...] = (10, 100, 1000, 10_000)
    repeats: int = 3
    agent_processes: int = 4


QUICK = Sizes(seconds=2.0, idle=30, fleets=(10, 100, 1000), repeats=2, agent_processes=2)


class Child:
    """A program of a package in a process of its own: a JSON object a line each way, one answer for each order."""

    def __init__(self, module: str, settings: Mapping[str, Any], package: str = "tests.bench.rdmp") -> None:
        command = [sys.executable, "-m", f"{package}.{module}", json.dumps(settings)]
        self._name = module
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, order: str, **arguments: Any) -> None:
        """Give an order without waiting for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": order, **arguments}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BenchError(f"{self._name} has ended: {error}") from error

    def answer(self, timeout: float = 120.0) -> Json:
        """Wait for the answer to the last order (or for the first line, which tells that it is ready)."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise BenchError(f"{self._name} did not answer within {timeout:g} s") from None
        if not line:
            raise BenchError(f"{self._name} ended with status {self._process.wait(5)}; its words stand above")
        answer: Json = json.loads(line)
        if "error" in answer:
            raise BenchError(f"{self._name}: {answer['error']}")
        return answer

    def ask(self, order: str, within: float = 120.0, **arguments: Any) -> Json:
        """Give an order and wait for the answer."""
        self.send(order, **arguments)
        return self.answer(within)

    def stop(self, seconds: float = 20.0) -> None:
        """End it: politely, then with SIGKILL."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")


async def obey(ready: Json, handlers: Mapping[str, Handler]) -> None:
    """The other side of `Child`: answer orders until standard input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps(ready), flush=True)
    while line := await reader.readline():
        order = json.loads(line)
        try:
            answer = await handlers[order.pop("do")](order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


@contextlib.contextmanager
def children(*, stop: float = 20.0) -> Iterator[list[Child]]:
    """A list whose processes are ended at the end, in the order in which they stand in it."""
    started: list[Child] = []
    try:
        yield started
    finally:
        for child in started:
            child.stop(stop)


def raise_file_limit() -> int:
    """Raise the limit of open files as far as this process may; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float]) -> Json:
    """Quantiles of times in seconds, as milliseconds."""
    return {
        "p50_ms": round(quantile(values, 0.5) * 1000, 3),
        "p99_ms": round(quantile(values, 0.99) * 1000, 3),
        "max_ms": round(max(values) * 1000, 3),
        "count": len(values),
    }


def memory(pid: int | str = "self") -> int:
    """Resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE


def processor_seconds(pids: Iterable[int]) -> float:
    """Processor time that processes (all their threads) have used, user and system, in seconds."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def disk_flushes() -> int:
    """Flush requests that all disks have completed since the start of the machine (whoever asked for them)."""
    total = 0
    for line in Path("/proc/diskstats").read_text(encoding="ascii").splitlines():
        fields = line.split()
        if len(fields) >= 20 and not fields[2].startswith(("loop", "ram")):
            total += int(fields[18])
    return total


def disk_fsync(folder: Path, count: int = 200, pause: float = 0.0) -> Json:
    """How long the disk takes to `fdatasync` 4 KiB appended to a file, with a pause of some seconds before each."""
    times = []
    block = b"x" * 4096
    path = folder / "fsync-probe"
    with path.open("wb", buffering=0) as file:
        for _ in range(count):
            time.sleep(pause)
            file.write(block)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    path.unlink()
    return spread(times)


def cold(count: int = 200) -> Json:
    """How long the processor takes for the same small work in a row, and after a pause; median microseconds."""
    work = {str(number): list(range(number)) for number in range(12)}
    told = {}
    for name, pause in (("in_a_row_us", 0.0), ("paused_us", PAUSE)):
        times = []
        for _ in range(count):
            time.sleep(pause)
            begun = time.perf_counter()
            json.loads(json.dumps(work))
            times.append(time.perf_counter() - begun)
        told[name] = round(statistics.median(times) * 1e6, 1)
    return told


def load() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]


def say(text: str) -> None:
    """Progress on standard error."""
    print(text, file=sys.stderr, flush=True)
