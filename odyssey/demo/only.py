# SPDX-License-Identifier: AGPL-3.0-or-later
"""One user of a lab at a time: a demonstration or a test run that takes a lab down must not do so under another one."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from odyssey.lab import LabError
from odyssey.lab.settings import Settings

PLACE = Path("/run")
POLL = 0.5  # s


@contextmanager
def only_user(settings: Settings, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lab of these settings for this process; waits at most `wait` seconds for another one.

    Raises `LabError` if it is in use. The kernel gives the lock back when the process ends, however it ends.
    """
    path = PLACE / f"odyssey-{settings.prefix}.lock"
    end = time.monotonic() + wait
    with path.open("w", encoding="ascii") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise LabError(
                        f"a demonstration or test run is at work in the lab {settings.prefix} (lock {path}); "
                        "wait for its end, or choose another lab by ODYSSEY_LAB and ODYSSEY_LAB_PREFIX"
                    ) from None
                time.sleep(POLL)
        yield
