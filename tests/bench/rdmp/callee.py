# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who answers the calls of the RPC measurement beside RDMP, as a process of its own: stock jsocket, or behind NATS."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import jsocket

from tests.bench.rdmp.clients import NatsProtocol
from tests.bench.rdmp.servers import HOST
from tests.bench.rdmp.support import obey


class EchoThread(jsocket.ServerFactoryThread):
    """The thread that jsocket's factory makes for each connection."""

    def _process_message(self, obj: Any) -> Any:
        return obj


class Responder(NatsProtocol):
    """Answers every request on a subject with its payload."""

    SUBSCRIBE = b"SUB bench.echo 1\r\n"

    def message(self, subject: bytes, reply: bytes, payload: bytes) -> None:
        self.write(b"PUB %s %d\r\n%s\r\n" % (reply, len(payload), payload))


async def main(settings: dict[str, Any]) -> None:
    """Answer until standard input ends."""
    if settings["kind"] == "jsocket":
        server = jsocket.ServerFactory(EchoThread, address=HOST, port=settings["port"], timeout=5.0)
        server.start()
        await obey({"ready": True}, {})
        server.stop_all()
        server.stop()
    else:
        await asyncio.get_running_loop().create_connection(Responder, HOST, settings["port"])
        await obey({"ready": True}, {})


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
