# SPDX-License-Identifier: AGPL-3.0-or-later
"""The client that loads RabbitMQ, over pika."""

from __future__ import annotations

import asyncio
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from tests.bench.rdmp.clients import TIMEOUT, VALUE, Loader
from tests.bench.rdmp.servers import HOST
from tests.bench.rdmp.support import BenchError


class Rabbit(Loader):
    """Publishes with confirms to a quorum queue of one member; one channel, confirms as they come."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: AsyncioConnection | None = None
        self._channel: Any = None
        self._tag = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def open(self, parallel: int) -> None:
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Any] = loop.create_future()
        channel: asyncio.Future[Any] = loop.create_future()
        declared: asyncio.Future[Any] = loop.create_future()
        confirmed: asyncio.Future[Any] = loop.create_future()

        def fail(_: Any, error: Any) -> None:
            if not opened.done():
                opened.set_exception(BenchError(f"RabbitMQ: {error}"))

        self._connection = AsyncioConnection(
            pika.ConnectionParameters(HOST, self._port), opened.set_result, fail, lambda *_: None, loop
        )
        async with asyncio.timeout(TIMEOUT):
            await opened
            self._connection.channel(on_open_callback=channel.set_result)
            self._channel = await channel
            arguments = {"x-queue-type": "quorum", "x-max-length": 100_000}
            self._channel.queue_declare("bench", durable=True, arguments=arguments, callback=declared.set_result)
            await declared
            self._channel.confirm_delivery(self._confirmed, confirmed.set_result)
            await confirmed

    def _confirmed(self, frame: Any) -> None:
        last, many = frame.method.delivery_tag, frame.method.multiple
        tags = [tag for tag in self._waiting if tag <= last] if many else [last]
        for tag in tags:
            if (future := self._waiting.pop(tag, None)) is None or future.done():
                continue
            if isinstance(frame.method, pika.spec.Basic.Ack):
                future.set_result(None)
            else:
                future.set_exception(BenchError("RabbitMQ refused a message"))

    async def operate(self, number: int) -> None:
        self._tag += 1
        future = self._waiting[self._tag] = asyncio.get_running_loop().create_future()
        self._channel.basic_publish("", "bench", VALUE.encode(), pika.BasicProperties(delivery_mode=2))
        async with asyncio.timeout(TIMEOUT):
            await future

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            await asyncio.sleep(0.1)
