# SPDX-License-Identifier: AGPL-3.0-or-later
"""What every daemon that speaks RDMP needs of the operating system: a stop signal, one folder, a word to systemd."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path


class FolderHeldError(Exception):
    """Another process works on the folder."""


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets; to be called in the event loop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


@contextlib.contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Hold a state folder: two processes with one journal would undo each other's work.  Raises FolderHeldError.

    ``what`` names the daemon for the error, for example ``agent``.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderHeldError(f"another {what} holds {folder}; stop it first") from error
        yield
    finally:
        os.close(descriptor)


def notify(state: str) -> None:
    """Tell the service manager, for example ``READY=1`` (sd_notify(3)); nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall(state.encode())
