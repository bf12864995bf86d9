# SPDX-License-Identifier: AGPL-3.0-or-later
"""The peers' durable operations, measured like RDMP's transactions: many at a time, and one at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.rdmp import servers
from tests.bench.rdmp.clients import Etcd, Loader, Nats
from tests.bench.rdmp.rabbit import Rabbit
from tests.bench.rdmp.support import PAUSE, BenchError, Json, Sizes, disk_flushes, load, processor_seconds, say, spread

OPEN = (64, 256)
Serving = tuple[int, Callable[[], Loader]]  # process id of the server, and how to make a client
Serve = Callable[[Path], AbstractContextManager[Serving]]


@dataclass(frozen=True, slots=True)
class Peer:
    """One operation of one server."""

    name: str
    guarantee: str
    serve: Serve


@contextmanager
def _etcd(folder: Path, keys: int) -> Iterator[Serving]:
    with servers.etcd(folder) as (process, port):
        yield process.pid, lambda: Etcd(port, keys)


@contextmanager
def _rabbit(folder: Path) -> Iterator[Serving]:
    with servers.rabbitmq(folder) as (pid, port):
        yield pid, lambda: Rabbit(port)


@contextmanager
def _nats(folder: Path) -> Iterator[Serving]:
    with servers.nats(folder) as (process, port):
        yield process.pid, lambda: Nats(port, "bench.subject", stream=True)


PEERS = (
    Peer(
        "etcd 3.4: put",
        "one key in one process; in the write-ahead log and synced before the answer; JSON gateway, no TLS",
        lambda folder: _etcd(folder, 1),
    ),
    Peer(
        "etcd 3.4: transaction of three keys",
        "three keys of one process together; synced before the answer; JSON gateway, no TLS",
        lambda folder: _etcd(folder, 3),
    ),
    Peer(
        "RabbitMQ 3.10: quorum queue, publish with confirm",
        "one message in one queue (one member); the write-ahead log is synced before the confirm; no TLS",
        _rabbit,
    ),
    Peer(
        "NATS 2.9 JetStream: publish with acknowledgement",
        "one message in one stream on files; acknowledged before it is synced (a power cut loses up to two minutes); "
        "no TLS",
        _nats,
    ),
)


def measure(folder: Path, sizes: Sizes) -> list[Json]:
    """One entry for each peer's operation; one that cannot be measured says why."""
    answers = []
    for number, peer in enumerate(PEERS):
        answer: Json = {"name": peer.name, "guarantee": peer.guarantee}
        try:
            with peer.serve(folder / f"peer-{number}") as (pid, make):
                answer |= asyncio.run(_load(pid, make, sizes))
            best = max(answer["saturated"], key=lambda one: float(one["per_second"]))
            say(f"  {peer.name}: {best['per_second']:.0f}/s; idle p99 {answer['idle']['p99_ms']} ms")
        except (BenchError, OSError, TimeoutError) as error:
            answer["error"] = f"{type(error).__name__}: {error}"
            say(f"  {peer.name}: could not be measured: {error}")
        answers.append(answer)
    return answers


async def _load(pid: int, make: Callable[[], Loader], sizes: Sizes) -> Json:
    await _saturate(pid, make, 16, 1.0)  # warm
    saturated = [await _saturate(pid, make, number, sizes.seconds / 2) for number in OPEN]
    loader = make()
    await loader.open(1)
    alone = await _one_by_one(loader, sizes.idle, 0.0)
    idle = await _one_by_one(loader, sizes.idle, PAUSE)
    await loader.close()
    return {"saturated": saturated, "alone": alone, "idle": idle}


async def _one_by_one(loader: Loader, count: int, pause: float) -> Json:
    times = []
    for number in range(count):
        await asyncio.sleep(pause)
        begun = time.perf_counter()
        await loader.operate(number)
        times.append(time.perf_counter() - begun)
    return spread(times)


async def _saturate(pid: int, make: Callable[[], Loader], parallel: int, seconds: float) -> Json:
    loader = make()
    await loader.open(parallel)
    times: list[float] = []
    server, own, flushes = processor_seconds([pid]), time.process_time(), disk_flushes()
    begun = time.monotonic()
    end = begun + seconds

    async def one_after_another(number: int) -> None:
        while time.monotonic() < end:
            at = time.perf_counter()
            await loader.operate(number)
            times.append(time.perf_counter() - at)
            number += parallel

    async with asyncio.TaskGroup() as group:
        for number in range(parallel):
            group.create_task(one_after_another(number))
    elapsed = time.monotonic() - begun
    count = len(times)
    told = spread(times)
    answer = {
        "open": parallel,
        "per_second": round(count / elapsed, 1),
        "p50_ms": told["p50_ms"],
        "p99_ms": told["p99_ms"],
        "cpu_us_server": round((processor_seconds([pid]) - server) / count * 1e6),
        "cpu_us_client": round((time.process_time() - own) / count * 1e6),
        "disk_flushes": round((disk_flushes() - flushes) / count, 3),
        "load": load(),
    }
    await loader.close()
    return answer
