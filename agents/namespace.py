# SPDX-License-Identifier: AGPL-3.0-or-later
"""A node's network namespace, entered by short-lived threads.

`setns` (setns(2)) changes the calling thread only. Each use starts a thread, which ends afterwards, so no thread of the
agent ever stays in a node's namespace. A socket keeps the namespace it was made in, so it may be used anywhere later.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceGone(Exception):
    """The process that holds the namespace has ended."""


class Namespace:
    """An open handle of a network namespace; it keeps the namespace alive until it is closed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def of_container(cls, pid: int, container: str) -> Namespace:
        """Open the namespace of a container's first process.

        `pid` is the process as the host sees it, `container` the container's full id. Raises NamespaceGone when the
        process has ended or its number belongs to another process by now.
        """
        try:
            namespace = cls(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except (FileNotFoundError, ProcessLookupError) as error:
            raise NamespaceGone(f"process {pid} of container {container[:12]} has ended") from error
        # Looked at after the open: whoever has the number now had it before, or its whole container has ended.
        try:
            with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
                owned = container in file.read()
        except (FileNotFoundError, ProcessLookupError):
            owned = False
        if not owned:
            namespace.close()
            raise NamespaceGone(f"process {pid} does not belong to container {container[:12]} any more")
        return namespace

    @property
    def path(self) -> str:
        """A path that programs started with `pass_fds=[descriptor]` can open."""
        return f"/proc/self/fd/{self._descriptor}"

    @property
    def descriptor(self) -> int:
        """The open file descriptor."""
        return self._descriptor

    @property
    def inode(self) -> int:
        """The number that tells two namespaces apart."""
        return os.fstat(self._descriptor).st_ino

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` inside the namespace, in a thread of its own, and return its result.

        `work` must end by itself; a cancelled caller waits for it, so that nothing goes on behind its back.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        # The thread holds a descriptor of its own: closing the handle meanwhile must not send it elsewhere.
        descriptor = os.dup(self._descriptor)

        def body() -> None:
            try:
                _enter(descriptor)
                result = work()
            except BaseException as error:  # raised in the caller, see below
                loop.call_soon_threadsafe(future.set_exception, error)
            else:
                loop.call_soon_threadsafe(future.set_result, result)
            finally:
                os.close(descriptor)

        threading.Thread(target=body, name="netns", daemon=True).start()
        return await finished(future)

    async def socket(self, family: int, kind: int) -> socket.socket:
        """Return a non-blocking socket that was made inside the namespace."""

        def make() -> socket.socket:
            made = socket.socket(family, kind)
            made.setblocking(False)
            return made

        return await self.run(make)

    def close(self) -> None:
        """Close the handle; may be repeated."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run blocking work that cannot be interrupted in a thread; see `finished`."""
    return await finished(asyncio.ensure_future(asyncio.to_thread(function, *arguments)))


async def finished(future: asyncio.Future[T]) -> T:
    """Await work that cannot be interrupted: a cancelled caller is told only once the work has ended."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # looked at: the caller is cancelled and will not ask for it
        raise


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot enter the network namespace: {os.strerror(number)}")
