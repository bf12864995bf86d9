# SPDX-License-Identifier: AGPL-3.0-or-later
"""Long-running processes of the lab: each has a pid file and a log file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from odyssey.lab.shell import POLL_INTERVAL, LabError, wait_until

STOP_TIMEOUT = 10.0
"""Seconds that a process has to end by itself after SIGTERM."""

KILL_TIMEOUT = 10.0
"""Seconds until the kernel has ended a process after SIGKILL."""

EXEC_POLLS = 5
"""Looks at a command line that is empty before it counts as a kernel thread's."""

_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class Process:
    """How one process is started and found again.

    `mark` is a text of its command line that no process outside this lab has; it guards against a process number that
    the kernel gave to somebody else, for example after a reboot.
    """

    name: str
    argv: tuple[str, ...]
    pidfile: Path
    log: Path
    mark: str
    environment: Mapping[str, str] = field(default_factory=dict)
    writes_pidfile: bool = False
    """The process writes `pidfile` itself (dockerd)."""


def start(process: Process) -> int:
    """Start a process in a session of its own, unless it runs; return its process number."""
    running = pid_of(process.pidfile, process.mark)
    if running is not None:
        return running
    process.pidfile.parent.mkdir(parents=True, exist_ok=True)
    process.log.parent.mkdir(parents=True, exist_ok=True)
    process.pidfile.unlink(missing_ok=True)
    try:
        with process.log.open("ab") as log:
            child = subprocess.Popen(
                process.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
                env={**os.environ, **process.environment},
            )
    except OSError as error:
        raise LabError(f"{process.name}: cannot start {process.argv[0]}: {error}") from error
    _children[child.pid] = child
    if not process.writes_pidfile:
        process.pidfile.write_text(f"{child.pid}\n", encoding="ascii")
    return child.pid


def alive(pid: int) -> bool:
    """Tell whether a process runs. A zombie does not: process 1 of a container may reap late or never."""
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]
        return False
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def command_line(pid: int) -> str:
    """The command line of a process, its words joined by blanks; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def pid_of(pidfile: Path, mark: str) -> int | None:
    """The number of the living process that a pid file names, or None."""
    try:
        pid = int(pidfile.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None
    return pid if alive(pid) and (pid in _children or mark in _settled_command_line(pid)) else None


def _settled_command_line(pid: int) -> str:
    """The command line of a process that may be in the middle of execve(2), when it is empty for a moment."""
    for _ in range(EXEC_POLLS):
        line = command_line(pid)
        if line:
            return line
        time.sleep(POLL_INTERVAL)
    return ""


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; nothing if the process is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def stop(
    targets: Sequence[tuple[str, int]], *, number: signal.Signals = signal.SIGTERM, timeout: float = STOP_TIMEOUT
) -> None:
    """Signal all targets (name, process number) at once and wait; those that stay get SIGKILL.

    Raises LabError if one outlives SIGKILL.
    """
    for _, pid in targets:
        send(pid, number)
    if not _ended(targets, timeout):
        for _, pid in targets:
            if alive(pid):
                send(pid, signal.SIGKILL)
        if not _ended(targets, KILL_TIMEOUT):
            left = ", ".join(f"{name} (pid {pid})" for name, pid in targets if alive(pid))
            raise LabError(f"{left}: still there {KILL_TIMEOUT:g} s after SIGKILL")


def _ended(targets: Sequence[tuple[str, int]], timeout: float) -> bool:
    try:
        wait_until(lambda: not any(alive(pid) for _, pid in targets), timeout, "end of processes")
    except LabError:
        return False
    return True
