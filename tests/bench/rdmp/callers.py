# SPDX-License-Identifier: AGPL-3.0-or-later
"""The clients of the RPC measurement, all in one process: each calls, waits for the answer, and calls again."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jsocket

from rdmp.client import Client
from rdmp.endpoints import Endpoint
from rdmp.limits import Limits
from rdmp.tls import TlsFiles
from tests.bench.rdmp.clients import Nats
from tests.bench.rdmp.servers import HOST
from tests.bench.rdmp.support import Json, obey, raise_file_limit, spread

PARAMS = {"text": "x" * 200}
Call = Callable[[], Awaitable[object]]


async def _rdmp(settings: Json, clients: int) -> tuple[list[Call], Callable[[], Awaitable[None]]]:
    tls = TlsFiles(*(Path(name) for name in settings["tls"]))
    made = [Client(Limits(handshake_timeout=30.0)) for _ in range(clients)]
    for client in made:
        await client.connect(Endpoint("tls", HOST, settings["port"]), tls)

    async def close() -> None:
        for client in made:
            await client.close()

    return [_calling(client) for client in made], close


def _calling(client: Client) -> Call:
    return lambda: client.call("echo", PARAMS)


async def _nats(settings: Json, clients: int) -> tuple[list[Call], Callable[[], Awaitable[None]]]:
    made = [Nats(settings["port"], "bench.echo", stream=False) for _ in range(clients)]
    for client in made:
        await client.open(1)

    async def close() -> None:
        for client in made:
            await client.close()

    return [_requesting(client) for client in made], close


def _requesting(client: Nats) -> Call:
    return lambda: client.operate(0)


async def _loops(settings: Json, order: Json) -> Json:
    connect = _rdmp if settings["kind"] == "rdmp" else _nats
    calls, close = await connect(settings, order["clients"])
    times: list[float] = []
    begun, cpu = time.monotonic(), time.process_time()
    end = begun + order["seconds"]

    async def one_after_another(call: Call) -> None:
        while time.monotonic() < end:
            at = time.perf_counter()
            await call()
            times.append(time.perf_counter() - at)

    await asyncio.gather(*(one_after_another(call) for call in calls))
    answer = _answer(times, time.monotonic() - begun, time.process_time() - cpu)
    await close()
    return answer


def _threads(settings: Json, order: Json) -> Json:
    """Stock jsocket blocks: a thread for each client."""
    times: list[float] = []
    failed: list[str] = []
    clients = []
    for _ in range(order["clients"]):
        client = jsocket.JsonClient(address=HOST, port=settings["port"], timeout=10)
        if client.connect():
            clients.append(client)
        else:
            failed.append("cannot connect")
    begun, cpu = time.monotonic(), time.process_time()
    end = begun + order["seconds"]

    def one_after_another(client: Any) -> None:
        try:
            while time.monotonic() < end:
                at = time.perf_counter()
                client.send_obj(PARAMS)
                client.read_obj()
                times.append(time.perf_counter() - at)
        except Exception as error:  # whatever jsocket raises ends this client, and is counted
            failed.append(str(error))

    threads = [threading.Thread(target=one_after_another, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(order["seconds"] + 30.0)
    answer = _answer(times, time.monotonic() - begun, time.process_time() - cpu)
    for client in clients:
        client.close()
    return {**answer, "failed_clients": len(failed)}


def _answer(times: list[float], seconds: float, cpu: float) -> Json:
    told = spread(times)
    return {
        "per_second": round(len(times) / seconds, 1),
        "p50_ms": told["p50_ms"],
        "p99_ms": told["p99_ms"],
        "cpu_us_client": round(cpu / len(times) * 1e6),
    }


async def main(settings: Json) -> None:
    """Obey until standard input ends."""
    raise_file_limit()

    async def call(order: Json) -> Json:
        if settings["kind"] == "jsocket":
            return await asyncio.to_thread(_threads, settings, order)
        return await _loops(settings, order)

    await obey({"ready": True}, {"call": call})


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
