# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sockets inside another network namespace, without a process there.

A socket stays in the network namespace of the thread that created it. So a short-lived thread enters the namespace
with setns(2), creates the socket and ends; the socket is then used from anywhere in this program. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

CLONE_NEWNET = 0x40000000  # <linux/sched.h>

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def of_pid(pid: int) -> Path:
    """The network namespace of a process."""
    return Path(f"/proc/{pid}/ns/net")


def inside(namespace: Path, function: Callable[[], T]) -> T:
    """Run `function` in a thread that has entered `namespace`; its result or its exception comes back.

    Blocks until the function returns: use it to create sockets, not to wait on them.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(descriptor, CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, f"cannot enter {namespace}: {os.strerror(number)} (root is needed)")
            finally:
                os.close(descriptor)
            results.append(function())
        except BaseException as error:  # handed to the caller below
            failures.append(error)

    thread = threading.Thread(target=run, name=f"netns {namespace}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def open_socket(namespace: Path, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A non-blocking socket that lives in `namespace`."""
    created = inside(namespace, lambda: socket.socket(family, kind, protocol))
    created.setblocking(False)
    return created
