# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whose a lab's directory and prefix are: one command at a time, one lab for each prefix."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from odyssey.lab.settings import Settings
from odyssey.lab.shell import LabError

MARKER = ".odyssey-lab"
"""A file that tells a lab's directory from any other; nothing is removed where it is missing."""

CLAIMS = Path("/run")
"""Here a file says which lab has a prefix."""

LOCK_TIMEOUT = 120.0
"""Seconds to wait for another lab command that is at work on the same directory."""

LOCK_POLL = 0.2


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Keep other lab commands off the directory, which is made if it is not there.

    Raises LabError if another command stays at work, or if the directory is not empty and no lab.
    """
    directory = settings.directory
    try:
        if not directory.exists() or not any(directory.iterdir()):
            directory.mkdir(parents=True, exist_ok=True)
            (directory / MARKER).touch()
        if not (directory / MARKER).exists():
            raise LabError(f"{directory} is not empty and is no lab: choose another by ODYSSEY_LAB")
        lock = (directory / MARKER).open("w")
    except OSError as error:
        raise LabError(f"{directory}: cannot be used: {error}; a lab needs root") from error
    with lock:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LabError(f"{directory}: another lab command is at work on it") from error
                time.sleep(LOCK_POLL)
        yield


def hold(settings: Settings) -> None:
    """Make the prefix this lab's."""
    _file(settings).write_text(str(settings.directory), encoding="utf-8")


def release(settings: Settings) -> None:
    """Give the prefix back."""
    _file(settings).unlink(missing_ok=True)


def check_prefix(settings: Settings, clear: Callable[[], None]) -> None:
    """Raise LabError if another lab has this prefix; `clear` ends what a lab left whose directory is gone."""
    mine = str(settings.directory)
    file = _file(settings)
    holder = file.read_text(encoding="utf-8") if file.exists() else mine
    if holder != mine and Path(holder).exists():
        raise LabError(
            f"the prefix {settings.prefix} is used by the lab in {holder}: take that down "
            f"(ODYSSEY_LAB={holder}), or choose another by ODYSSEY_LAB_PREFIX"
        )
    if holder != mine:
        clear()


def _file(settings: Settings) -> Path:
    return CLAIMS / f"odyssey-lab-{settings.prefix}"
