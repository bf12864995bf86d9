# SPDX-License-Identifier: AGPL-3.0-or-later
"""One side of a ping-pong of datagrams, in a namespace: ``python -m tests.bench.fabric.pingpong JSON``."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time

from tests.bench.rdmp.support import Json, obey, spread
from tests.integration.controller_support import socket_at

SECONDS = 2.0  # to wait for one answer
PAYLOAD = b"x" * 64


def _answer(netns: str, address: str, port: int) -> None:
    served = socket_at(netns, socket.SOCK_DGRAM)
    served.bind((address, port))
    while True:
        data, sender = served.recvfrom(2048)
        served.sendto(data, sender)


def _ask(netns: str, address: str, port: int, count: int) -> Json:
    asking = socket_at(netns, socket.SOCK_DGRAM)
    asking.settimeout(SECONDS)
    asking.connect((address, port))
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        asking.send(PAYLOAD)
        asking.recv(2048)
        times.append(time.perf_counter() - begun)
    return spread(times)


async def _main(settings: Json) -> None:
    where = (settings["netns"], settings["address"], settings["port"])
    if settings["answers"]:
        threading.Thread(target=_answer, args=where, daemon=True).start()

    async def ask(order: Json) -> Json:
        return await asyncio.to_thread(_ask, *where, order["count"])

    await obey({"ready": True}, {"ask": ask})


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
