# SPDX-License-Identifier: AGPL-3.0-or-later
"""A hub under attack on real sockets: it stays small, serves the others, cuts the offender, and counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rdmp.client import Client
from rdmp.endpoints import Endpoint
from rdmp.frames import HEADER, MAGIC, encode
from rdmp.tls import TlsFiles
from tests.integration.hostile_hub import LIMITS
from tests.integration.rdmp_support import FAST
from tests.integration.test_rdmp_connections import Raw

ROOT = Path(__file__).parents[2]
GROWTH_MIB = 150  # more than all half frames and queues that the limits allow here, far less than what is thrown at it
ATTACKER = "127.0.0.66"
MOST = 2_000_000  # messages of a flood: the rate is looked at with each heartbeat, so it must last for more than one
SLOW = 0.4  # seconds between two bytes of a slow loris


@dataclass
class Target:
    """The process of the hub."""

    process: subprocess.Popen[str]
    folder: Path
    tls: int
    plain: int

    def files(self, role: str, name: str) -> TlsFiles:
        pki = self.folder / "pki"
        return TlsFiles(pki / f"{role}-{name}.pem", pki / f"{role}-{name}.key", pki / "ca.pem")

    def rss(self) -> float:
        """Resident memory in MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "tests.integration.hostile_hub", str(folder)),
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
    assert process.stdout is not None
    ports = json.loads(process.stdout.readline())
    yield Target(process, folder, ports["tls"], ports["plain"])
    process.kill()
    process.wait()


@dataclass
class Witness:
    """A client that does its work beside the attack."""

    client: Client
    trips: int = 0

    async def work(self) -> None:
        while True:
            assert await self.client.call("echo", {"n": self.trips}, timeout=30) == {"n": self.trips}
            self.trips += 1
            await asyncio.sleep(0.01)

    async def refused(self, reason: str) -> int:
        return int((await self.client.call("counters", timeout=30))["refused"].get(reason, 0))

    async def counted(self, reason: str, least: int) -> None:
        """Wait until at least so many refusals for a reason were counted."""
        async with asyncio.timeout(30):
            while await self.refused(reason) < least:
                await asyncio.sleep(0.05)


@pytest.fixture
async def witness(target: Target) -> AsyncIterator[Witness]:
    """Works during the test; then checks that the hub is well."""
    client = Client(FAST)
    await client.connect(Endpoint("tls", "127.0.0.1", target.tls), target.files("operator", "alice"))
    one = Witness(client)
    before, lines = target.rss(), target.log.count("\n")
    task = asyncio.create_task(one.work())
    yield one
    trips = one.trips
    async with asyncio.timeout(60):
        while one.trips < trips + 5 and not task.done():
            await asyncio.sleep(0.01)
    if task.done():
        await task
    task.cancel()
    await client.close()
    assert target.process.poll() is None
    assert target.rss() - before < GROWTH_MIB
    assert "Traceback" not in target.log
    assert target.log.count("\n") - lines < 60


async def attack(target: Target, address: str = ATTACKER, *, plain: bool = True) -> socket.socket:
    """Return a bare connection that comes from another address of the loopback."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((address, 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", target.plain if plain else target.tls))
    return sock


async def end_of(sock: socket.socket) -> bytes:
    """Return what comes until the hub ends the connection."""
    data = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(30):
            while more := await asyncio.get_running_loop().sock_recv(sock, 65536):
                data += more
    sock.close()
    return data


async def entered(target: Target, role: str, name: str) -> Raw:
    raw = await Raw.open(target.tls, target.files(role, name))
    raw.hello(role=role, name=name)
    await raw.next("welcome")
    return raw


def frame(body: bytes) -> bytes:
    return HEADER.pack(MAGIC, len(body), zlib.crc32(body)) + body


WRONG = {
    "checksum": (HEADER.pack(MAGIC, 2, 7) + b"{}", "bad_frame"),
    "four GiB": (HEADER.pack(MAGIC, (1 << 32) - 1, 0), "message_too_large"),
    "deep": (frame(b'{"a":' * 5000 + b"1" + b"}" * 5000), "bad_message"),
    "NaN": (frame(b'{"type": "ping", "n": NaN}'), "bad_message"),
    "infinity": (frame(b'{"type": "ping", "n": 1e999}'), "bad_message"),
    "duplicate": (frame(b'{"type": "ping", "type": "ping", "n": 1}'), "bad_message"),
    "not UTF-8": (frame(b'{"type": "\xff\xfe"}'), "bad_message"),
    "surrogate": (frame(b'{"type": "\\ud800"}'), "bad_message"),
    "large before hello": (HEADER.pack(MAGIC, LIMITS.max_hello_bytes + 1, 0), "message_too_large"),
    "no hello": (frame(b'{"type": "ping", "n": 1}'), "bad_message"),
    "huge integer": (
        frame(b'{"type":"hello","versions":[1,1],"name":"x","role":"operator","boot":"b","epoch":' + b"9" * 400 + b"}"),
        "bad_message",
    ),
    "tiny limit": (
        frame(
            b'{"type":"hello","versions":[1,1],"name":"x","role":"operator","boot":"b","epoch":0,'
            b'"limits":{"max_message_bytes":1}}'
        ),
        "bad_message",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_bytes(target: Target, witness: Witness, name: str) -> None:
    data, code = WRONG[name]
    before = await witness.refused(code)
    for _ in range(20):
        sock = await attack(target)
        await asyncio.get_running_loop().sock_sendall(sock, data)
        assert code.encode() in await end_of(sock)
    await witness.counted(code, before + 20)


async def test_random_bytes(target: Target, witness: Witness) -> None:
    rng = random.Random(3)
    before = await witness.refused("bad_frame")
    for plain in (True, False):
        for _ in range(50):
            sock = await attack(target, plain=plain)
            with contextlib.suppress(ConnectionError):
                await asyncio.get_running_loop().sock_sendall(sock, rng.randbytes(rng.randint(12, 5000)))
            await end_of(sock)
    await witness.counted("bad_frame", before + 50)
    await witness.counted("handshake", 50)


async def test_connections_without_a_handshake(target: Target, witness: Witness) -> None:
    """They fill the share of their address; others connect meanwhile."""
    before = await witness.refused("handshakes_per_address")
    socks = [await attack(target, plain=False) for _ in range(1500)]
    another = await Raw.open(target.tls, target.files("operator", "eve"))
    another.hello(name="eve")
    await another.next("welcome")
    another.writer.close()
    await witness.counted("handshakes_per_address", before + 1500 - 5 * LIMITS.handshakes_per_address)
    for sock in socks:
        sock.close()


async def test_half_frames_held_open(target: Target, witness: Witness) -> None:
    before = await witness.refused("handshake_timeout")
    socks = [await attack(target) for _ in range(100)]
    for sock in socks:
        await asyncio.get_running_loop().sock_sendall(sock, HEADER.pack(MAGIC, 60_000, 0) + b"x" * 59_999)
    for sock in socks:
        await end_of(sock)
    await witness.counted("handshake_timeout", before + 100)


async def test_half_frames_after_the_handshake(target: Target, witness: Witness) -> None:
    """Also when a byte comes now and then: slow loris."""
    before = await witness.refused("slow_frame")
    raws = [await entered(target, "operator", "eve") for _ in range(5)]
    for raw in raws:
        raw.writer.write(HEADER.pack(MAGIC, LIMITS.max_message_bytes, 0) + b"x" * (LIMITS.max_message_bytes // 2))

    async def drip(raw: Raw) -> None:
        with contextlib.suppress(ConnectionError, OSError):
            while True:
                raw.writer.write(b"x")
                await asyncio.sleep(SLOW)

    drips = [asyncio.create_task(drip(raw)) for raw in raws]
    for raw in raws:
        assert (await raw.next("error"))["code"] == "slow_frame"
    for task in drips:
        task.cancel()
    await witness.counted("slow_frame", before + len(raws))


FORBIDDEN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vote for another": ("agent", "h1", {"type": "vote", "tx": "theirs", "vote": "no"}),
    "done for another": ("agent", "h1", {"type": "done", "tx": "theirs", "stage": "admit"}),
    "aborted for another": ("agent", "h1", {"type": "aborted", "tx": "theirs"}),
    "agent publishes tx": ("agent", "h1", {"type": "publish", "id": "1", "topic": "tx.decided", "data": {}}),
    "agent subscribes": ("agent", "h1", {"type": "subscribe", "id": "1", "topics": [">"]}),
    "publisher votes": ("publisher", "pub", {"type": "vote", "tx": "theirs", "vote": "yes"}),
    "publisher publishes peer": ("publisher", "pub", {"type": "publish", "id": "1", "topic": "peer.lost", "data": {}}),
    "publisher prepares": (
        "publisher", "pub",
        {"type": "prepare", "tx": "t", "seq": 1, "epoch": 9, "low_water": 1, "deadline": 1.0,
         "operation": {"prepare": None, "stages": {"admit": {}}}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_what_a_certificate_does_not_allow(target: Target, witness: Witness, name: str) -> None:
    """Answered, counted, and in the end cut; a transaction of others is not moved by it."""
    role, user, message = FORBIDDEN[name]
    theirs = f"theirs.{list(FORBIDDEN).index(name)}"
    if "tx" in message:
        message = {**message, "tx": theirs}
    victim = await entered(target, "agent", "h2")
    running = asyncio.create_task(
        witness.client.call("transaction", {"id": theirs, "participants": ["h2"]}, timeout=30)
    )
    prepare = await victim.next("prepare")
    before = await witness.refused("forbidden")
    raw = await entered(target, role, user)
    for number in range(LIMITS.offences_per_connection):
        raw.send(**{**message, **({"id": str(number)} if "id" in message else {})})
    await raw.ended()
    await witness.counted("forbidden", before + LIMITS.offences_per_connection)
    assert not running.done()
    victim.send(type="vote", tx=prepare["tx"], vote="yes")
    for _ in range(2):
        commit = await victim.next("commit")
        victim.send(type="done", tx=commit["tx"], stage=commit["stage"])
    assert await running == {"state": "committed"}
    victim.writer.close()
    await witness.counted("too_many_offences", 1)


async def test_calls_of_who_may_not_call(target: Target, witness: Witness) -> None:
    for role, user in (("publisher", "pub"), ("agent", "h1")):
        raw = await entered(target, role, user)
        raw.send(type="call", id="1", method="service.call")
        assert (await raw.next("reply"))["error"]["code"] == "forbidden"
        raw.writer.close()


async def flood(raw: Raw, make: Callable[[int], dict[str, Any]], count: int, *, read: bool) -> None:
    """Send messages as fast as they are taken, until the connection ends."""
    if not read:
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
    with contextlib.suppress(ConnectionError, OSError, EOFError, TimeoutError):
        for number in range(count):
            raw.writer.write(encode(make(number), 1 << 23))
            if number % 50 == 0:
                async with asyncio.timeout(20):
                    await raw.writer.drain()
                await asyncio.sleep(0)  # drain alone never lets the loop see that the connection has ended
                if raw.writer.transport.is_closing():
                    return


@pytest.mark.parametrize("read", [True, False])
async def test_floods(target: Target, witness: Witness, read: bool) -> None:
    def ping(number: int) -> dict[str, Any]:
        return {"type": "ping", "n": number}

    def call(number: int) -> dict[str, Any]:
        return {"type": "call", "id": str(number), "method": "slow"}

    before = sum([await witness.refused("rate_exceeded"), await witness.refused("overloaded")])
    for make in (ping, call):
        raws = [await entered(target, "operator", "eve") for _ in range(3)]
        await asyncio.gather(*(flood(raw, make, MOST, read=read) for raw in raws))
        for raw in raws:
            raw.writer.transport.abort()
    async with asyncio.timeout(30):
        while await witness.refused("rate_exceeded") + await witness.refused("overloaded") < before + 4:
            await asyncio.sleep(0.1)
    if read:
        assert await witness.refused("too_many_calls")


async def test_large_messages_full_of_faults(target: Target, witness: Witness) -> None:
    """Their faults are not listed one by one: that would take minutes and gigabytes."""
    bad: list[Awaitable[dict[str, Any]]] = []
    for message in (
        {"type": "subscribe", "id": "1", "topics": ["!"] * 400_000},
        {"type": [0] * 1_000_000},
        {"type": "call", "id": "1", "method": "!" * 4_000_000},
        {"type": "publish", "id": "1", "topic": "a.b", "data": {"x": [[]] * 150_000}},
    ):
        raw = await entered(target, "operator", "eve")
        raw.writer.write(encode(message, 1 << 23))
        bad.append(asyncio.ensure_future(raw.next("reply" if "id" in message else "error")))
    for answer in await asyncio.gather(*bad):
        assert (answer.get("code") or answer["error"]["code"]) in ("bad_message", "message_too_large")


async def test_a_huge_number_of_subscriptions(target: Target, witness: Witness) -> None:
    raw = await entered(target, "operator", "eve")
    for number in range(LIMITS.subscriptions_per_peer + LIMITS.offences_per_connection):
        raw.send(type="subscribe", id=str(number), topics=["*.*.*.>"] * 64)
    codes: list[str] = []
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            reply = await raw.next()
            if reply["type"] in ("reply", "error"):
                codes.append((reply.get("error") or reply).get("code", "made"))
    assert codes.count("made") <= LIMITS.subscriptions_per_peer
    assert "too_many_offences" in codes
    before = await witness.refused("too_many_offences")
    raw = await entered(target, "operator", "eve")
    await flood(raw, lambda n: {"type": "subscribe", "id": str(n), "topics": [">"] * 64}, 5000, read=False)
    raw.writer.transport.abort()
    await witness.counted("too_many_offences", before + 1)


async def test_connections_of_one_certificate(target: Target, witness: Witness) -> None:
    raws = [await entered(target, "operator", "eve") for _ in range(LIMITS.connections_per_certificate)]
    more = await Raw.open(target.tls, target.files("operator", "eve"))
    assert (await more.next("error"))["code"] == "too_many_connections"
    await more.ended()
    raws[0].writer.transport.abort()
    await witness.counted("too_many_connections", 1)
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(AssertionError, EOFError, ConnectionError):
                raws.append(await entered(target, "operator", "eve"))
                break
    for raw in raws:
        raw.writer.transport.abort()
