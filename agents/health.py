# SPDX-License-Identifier: AGPL-3.0-or-later
"""Health checks, made from inside the node's network namespace: HTTP, TCP, or a command in the container."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from agents.namespace import Namespace
from agents.spec import Health

FIRST_PAUSE = 0.01  # seconds; the pause grows from here to the interval, so that a quick node is found quickly
PAUSE_GROWTH = 1.2
LOOK_INTERVAL = 0.15  # seconds between two looks at whether the process still runs
ANSWER_LIMIT = 4096  # bytes of an HTTP answer that are read
SHOWN_LIMIT = 200  # characters of an answer that a message shows

RunCommand = Callable[[tuple[str, ...], float], Awaitable[tuple[int | None, str]]]  # exit code (None: timeout), output


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of one check: `answer` tells a person what came back."""

    ok: bool
    answer: str


def pauses(interval: float) -> Iterator[float]:
    """Yield the pauses in seconds between checks: short at first, then the interval for ever."""
    pause = min(FIRST_PAUSE, interval)
    while True:
        yield pause
        pause = min(pause * PAUSE_GROWTH, interval)


async def probe(health: Health, address: str, namespace: Namespace, run: RunCommand) -> Probe:
    """Make one check; it takes at most `health.timeout` seconds (a command may need a moment more to be ended)."""
    if health.kind == "command":
        return await _command(health, run)
    target = f"{address}:{health.port}"
    try:
        async with asyncio.timeout(health.timeout):
            connection = await namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                await asyncio.get_running_loop().sock_connect(connection, (address, health.port))
                if health.kind == "tcp":
                    return Probe(True, f"tcp {target} accepts connections")
                return await _http(connection, target, health.path)
            finally:
                connection.close()
    except TimeoutError:
        return Probe(False, f"{health.kind} {target}: no answer within {health.timeout:g} s")
    except OSError as error:
        return Probe(False, f"{health.kind} {target}: {error.strerror or error}")


async def _http(connection: socket.socket, target: str, path: str) -> Probe:
    """Ask with HTTP/1.1 (RFC 9112) and look at the status line; 2xx is healthy."""
    loop = asyncio.get_running_loop()
    request = f"GET {path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: odyssey-agent\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(connection, request.encode("ascii"))
    answer = b""
    while len(answer) < ANSWER_LIMIT:
        part = await loop.sock_recv(connection, ANSWER_LIMIT - len(answer))
        if not part:
            break
        answer += part
        if _status(answer) // 100 == 2:
            break
    status = _status(answer)
    head, _, body = answer.partition(b"\r\n\r\n")
    first = head.splitlines()[0] if head else b"nothing"
    shown = _shown(first) + (f": {_shown(body)}" if body and status // 100 != 2 else "")
    return Probe(status // 100 == 2, f"http {target}{path} answered {shown}")


def _status(answer: bytes) -> int:
    """Return the status code of an HTTP answer, 0 while there is none or where it is something else."""
    line, end, _ = answer.partition(b"\r\n")
    words = line.split(b" ", 2)
    if not end or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return 0
    return int(words[1])


async def _command(health: Health, run: RunCommand) -> Probe:
    code, output = await run(health.command, health.timeout)
    name = health.command[0]
    if code is None:
        return Probe(False, f"command {name} did not end within {health.timeout:g} s: {_shown(output.encode())}")
    return Probe(code == 0, f"command {name} ended with {code}: {_shown(output.encode())}")


def _shown(text: bytes) -> str:
    words = " ".join(text.decode("utf-8", "replace").split())
    return words if len(words) <= SHOWN_LIMIT else words[:SHOWN_LIMIT] + "…"


class Unhealthy(Exception):
    """A node did not become healthy; the text tells why, with what came back last."""


async def until_healthy(
    health: Health, check: Callable[[], Awaitable[Probe]], ended: Callable[[], Awaitable[str | None]]
) -> Probe:
    """Check until a node is healthy and return that check.

    `ended` tells how the node's process ended, None while it runs. Raises Unhealthy when the process has ended or
    `health.deadline` seconds have passed.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + health.deadline
    looked = loop.time()
    for pause in pauses(health.interval):
        last = await check()
        if last.ok:
            return last
        if loop.time() - looked > LOOK_INTERVAL:
            if (how := await ended()) is not None:
                raise Unhealthy(f"{how} before it was healthy; the last check: {last.answer}")
            looked = loop.time()
        if loop.time() + pause > end:
            raise Unhealthy(f"it did not become healthy within {health.deadline:g} s; the last check: {last.answer}")
        await asyncio.sleep(pause)
    raise AssertionError("pauses never end")
