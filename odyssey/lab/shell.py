# SPDX-License-Identifier: AGPL-3.0-or-later
"""Commands that the lab runs, and bounded waits."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

COMMAND_TIMEOUT = 60.0
"""Seconds that one command may take."""

POLL_INTERVAL = 0.03
"""Seconds between two looks at a condition."""

Progress = Callable[[str], None]
"""Told one line of plain text for each thing that was done."""


class LabError(Exception):
    """The lab cannot do what was asked: what, where, why, and what to do."""


def run(argv: Sequence[str], *, stdin: str | None = None, timeout: float = COMMAND_TIMEOUT) -> str:
    """Run a command and return its standard output.

    Raises LabError with the command and what it said if it is missing, fails, or takes longer than `timeout` seconds.
    """
    try:
        result = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise LabError(f"the command {argv[0]} is missing: `make setup` installs it") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: no answer within {timeout:g} s") from error
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip() or "no message"
        raise LabError(f"{' '.join(argv)}: exit code {result.returncode}: {said}")
    return result.stdout


def wait_until(
    condition: Callable[[], bool], timeout: float, what: str, log: Path | None = None, *, poll: float = POLL_INTERVAL
) -> None:
    """Wait until a condition holds, looking every `poll` seconds.

    Raises LabError that says what did not happen within `timeout` seconds, with the end of a log file.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise LabError(f"{what}: not within {timeout:g} s{tail(log)}")
        time.sleep(poll)


def unmount_below(directory: Path) -> None:
    """Unmount whatever is mounted below a directory, the deepest first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    for mount in sorted(mounts, reverse=True):
        if mount.startswith(f"{directory}/"):
            run(["umount", mount])


def tail(log: Path | None, lines: int = 5) -> str:
    """The last lines of a log, as the end of an error message; empty without a log."""
    if log is None:
        return ""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"; there is no log {log}"
    last = text.strip().splitlines()[-lines:]
    return f"; the end of {log}:\n  " + "\n  ".join(last)
