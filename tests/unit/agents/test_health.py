# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from agents.health import Probe, Unhealthy, pauses, probe, until_healthy
from agents.namespace import Namespace
from agents.spec import Health


@pytest.fixture
def here() -> Iterator[Namespace]:
    """The namespace of the test itself; entering it needs root."""
    if os.geteuid() != 0:
        pytest.skip("setns needs root")
    with Namespace(os.open("/proc/self/ns/net", os.O_RDONLY)) as namespace:
        yield namespace


class Server:
    """Answers every connection with fixed bytes; None leaves it open without an answer."""

    def __init__(self) -> None:
        self.answer: bytes | None = b""
        self.asked = b""
        self.port = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked = await reader.read(1000)
        if self.answer is None:
            await reader.read()
        else:
            writer.write(self.answer)
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listener = await asyncio.start_server(made.talk, "127.0.0.1", 0)
    made.port = listener.sockets[0].getsockname()[1]
    yield made
    listener.close()


async def no_command(command: tuple[str, ...], timeout: float) -> tuple[int | None, str]:
    raise AssertionError("no command was asked for")


@pytest.mark.parametrize(
    ("answer", "ok", "told"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nfine", True, "answered HTTP/1.1 200 OK"),
        (b"HTTP/1.0 204 No Content\r\n\r\n", True, "204"),
        (b"HTTP/1.1 503 Down\r\n\r\nthe\ndatabase", False, "answered HTTP/1.1 503 Down: the database"),
        (b"HTTP/1.1 301 Moved\r\n\r\n", False, "301"),
        (b"SSH-2.0-x\r\n", False, "answered SSH-2.0-x"),
        (b"", False, "answered nothing"),
    ],
)
async def test_http(here: Namespace, server: Server, answer: bytes, ok: bool, told: str) -> None:
    server.answer = answer
    result = await probe(Health("http", server.port, "/healthz"), "127.0.0.1", here, no_command)
    assert result.ok is ok and told in result.answer
    assert server.asked.startswith(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:")


async def test_a_silent_server_takes_no_longer_than_the_timeout(here: Namespace, server: Server) -> None:
    server.answer = None
    result = await probe(Health("http", server.port, timeout=0.05), "127.0.0.1", here, no_command)
    assert result == Probe(False, f"http 127.0.0.1:{server.port}: no answer within 0.05 s")


async def test_tcp(here: Namespace, server: Server) -> None:
    assert (await probe(Health("tcp", server.port), "127.0.0.1", here, no_command)).ok
    refused = await probe(Health("tcp", 1), "127.0.0.1", here, no_command)
    assert not refused.ok and "tcp 127.0.0.1:1:" in refused.answer


@pytest.mark.parametrize(
    ("code", "ok", "told"), [(0, True, "ended with 0: out"), (3, False, "ended with 3"), (None, False, "did not end")]
)
async def test_command(here: Namespace, code: int | None, ok: bool, told: str) -> None:
    async def run(command: tuple[str, ...], timeout: float) -> tuple[int | None, str]:
        assert command == ("check", "-q")
        return code, "out\n"

    result = await probe(Health("command", command=("check", "-q")), "127.0.0.1", here, run)
    assert result.ok is ok and told in result.answer


def test_pauses_grow_to_the_interval() -> None:
    taken = list(itertools.islice(pauses(0.2), 20))
    assert taken == sorted(taken) and taken[0] == 0.01 and taken[-1] == 0.2
    assert list(itertools.islice(pauses(0.001), 3)) == [0.001] * 3


async def test_waiting_for_health() -> None:
    answers = iter([Probe(False, "not yet"), Probe(False, "not yet"), Probe(True, "now")])

    async def check() -> Probe:
        return next(answers)

    async def alive() -> str | None:
        return None

    assert (await until_healthy(Health("tcp", 1), check, alive)).answer == "now"


async def test_waiting_ends_with_the_process_or_the_deadline() -> None:
    async def check() -> Probe:
        return Probe(False, "refused")

    async def ended() -> str | None:
        return "it ended with exit code 2"

    async def alive() -> str | None:
        return None

    with pytest.raises(Unhealthy, match="exit code 2 before it was healthy; the last check: refused"):
        await until_healthy(Health("tcp", 1, deadline=60), check, ended)
    with pytest.raises(Unhealthy, match=r"within 0.05 s; the last check: refused"):
        await until_healthy(Health("tcp", 1, deadline=0.05), check, alive)


async def test_work_in_a_namespace_is_waited_for_when_cancelled(here: Namespace) -> None:
    done: list[int] = []

    def slow() -> None:
        import time

        time.sleep(0.1)
        done.append(1)

    task = asyncio.create_task(here.run(slow))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [1]
