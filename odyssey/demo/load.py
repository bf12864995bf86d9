# SPDX-License-Identifier: AGPL-3.0-or-later
"""Starts `traffic.py` inside a network namespace and follows what it reports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = Path(__file__).with_name("traffic.py")
FIRST_ANSWER = 20.0  # s until the first request must have been answered
LAST_ANSWER = 30.0  # s that the program gets for what is on the way when it is told to stop


class LoadError(Exception):
    """The load program did not do its work."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the requests; `failures` describes the failed ones, `servers` counts answers by who gave them."""

    sent: int = 0
    ok: int = 0
    failed: int = 0
    phases: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    slowest: Mapping[str, float] = field(default_factory=dict)
    servers: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[str, ...] = ()

    def of(self, *phases: str) -> Counts:
        """The same for some phases only (who answered is not known by phase)."""
        chosen = {phase: self.phases[phase] for phase in phases if phase in self.phases}
        return Counts(
            sent=sum(counts["sent"] for counts in chosen.values()),
            ok=sum(counts["ok"] for counts in chosen.values()),
            failed=sum(counts["failed"] for counts in chosen.values()),
            phases=chosen,
            slowest={phase: value for phase, value in self.slowest.items() if phase in chosen},
            failures=tuple(text for text in self.failures if any(text.startswith(f"{name}:") for name in chosen)),
        )


class Load:
    """A running load. Use as `async with Load(namespace, urls) as load`; leaving the block ends it.

    `fields` are keys that every JSON answer must carry, the first of them names who served. `rate` is in requests each
    second, `timeout` in seconds for one request.
    """

    def __init__(
        self,
        namespace: Path,
        urls: Sequence[str],
        *,
        rate: float = 80.0,
        timeout: float = 8.0,
        fields: Sequence[str] = (),
    ) -> None:
        self._command = [
            "nsenter", f"--net={namespace}", sys.executable, "-I", str(PROGRAM),
            f"--rate={rate}", f"--timeout={timeout}", *(f"--field={name}" for name in fields), *urls,
        ]  # fmt: skip
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._last: Mapping[str, Any] = {}
        self._failures: list[str] = []
        self._summary = False

    async def __aenter__(self) -> Load:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        self._reader = asyncio.create_task(self._follow(self._process))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            document = json.loads(line)
            if document["kind"] == "failure":
                when = f"after {document['after']:.2f} s (at {document['at']:.2f} s)"
                self._failures.append(f"{document['phase']}: {document['error']} {when}")
            else:
                self._last = document
                self._summary = document["kind"] == "summary"
            self._news.set()
        self._news.set()

    async def phase(self, name: str) -> None:
        """Requests that are due from now on belong to this phase."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(f"{name}\n".encode())
        await self._process.stdin.drain()

    def counts(self) -> Counts:
        """What was reported last (at most a quarter of a second old while it runs)."""
        last = self._last
        return Counts(
            sent=last.get("sent", 0),
            ok=last.get("ok", 0),
            failed=last.get("failed", 0),
            phases=last.get("phases", {}),
            slowest=last.get("slowest", {}),
            servers=last.get("servers", {}),
            failures=tuple(self._failures),
        )

    async def reaches(self, phase: str, answered: int, timeout: float = FIRST_ANSWER) -> None:
        """Wait until this many requests of a phase have been answered or have failed."""
        try:
            async with asyncio.timeout(timeout):
                while self._answered(phase) < answered:
                    if self._reader is None or self._reader.done():
                        raise LoadError(f"the load program ended: {' '.join(self._command)}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise LoadError(f"{self._answered(phase)} of {answered} requests were answered in {timeout} s") from None

    def _answered(self, phase: str) -> int:
        counts = self.counts().phases.get(phase, {})
        return int(counts.get("ok", 0)) + int(counts.get("failed", 0))

    async def finish(self) -> Counts:
        """Stop sending, wait for what is on the way, and return the final counts."""
        assert self._process is not None and self._reader is not None
        if self._process.returncode is None:
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), LAST_ANSWER)
        except TimeoutError:
            raise LoadError(f"the load program did not end within {LAST_ANSWER} s") from None
        await self._reader
        if not self._summary:
            raise LoadError(f"the load program ended without a summary (exit code {self._process.returncode})")
        return self.counts()
