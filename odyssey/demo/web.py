# SPDX-License-Identifier: AGPL-3.0-or-later
"""One HTTP request, or one TCP connection, made from inside a network namespace."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path

from odyssey.demo import netns

MAX_ANSWER = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP server answered."""

    status: int
    headers: str
    body: bytes


class WebError(Exception):
    """The request got no complete answer."""


async def connect(namespace: Path, address: str, port: int, timeout: float) -> socket.socket:
    """A connected TCP socket of `namespace`. Raises `OSError` (refused, unreachable) or `TimeoutError`."""
    opened = netns.open_socket(namespace, socket.AF_INET, socket.SOCK_STREAM)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(opened, (address, port)), timeout)
    except BaseException:
        opened.close()
        raise
    return opened


async def get(namespace: Path, address: str, port: int = 80, path: str = "/", *, timeout: float = 5.0) -> Answer:
    """GET over a fresh connection. Raises `WebError` with what went wrong; `timeout` (s) covers all of it."""
    try:
        async with asyncio.timeout(timeout):
            return await _get(namespace, address, port, path, timeout)
    except (OSError, TimeoutError, ValueError) as error:
        what = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        raise WebError(f"GET http://{address}:{port}{path}: {what}") from error


async def _get(namespace: Path, address: str, port: int, path: str, timeout: float) -> Answer:
    opened = await connect(namespace, address, port, timeout)
    reader, writer = await asyncio.open_connection(sock=opened)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
        raw = await reader.read(MAX_ANSWER)
        while not reader.at_eof() and len(raw) < MAX_ANSWER:
            raw += await reader.read(MAX_ANSWER - len(raw))
    finally:
        writer.close()
        with contextlib.suppress(OSError):  # the answer is complete or refused below; a late reset changes neither
            await writer.wait_closed()
    head, _, body = raw.partition(b"\r\n\r\n")
    parts = head.split(b" ", 2)
    if len(parts) < 3 or not parts[0].startswith(b"HTTP/1."):
        raise ValueError(f"not an HTTP answer: {raw[:60]!r}")
    return Answer(int(parts[1]), head.decode("latin-1"), body)
