# SPDX-License-Identifier: AGPL-3.0-or-later
"""An orchestrator in memory for the other examples: python examples/rdmp/hub.py PKI PORT (0: any)."""

import asyncio
import sys
from pathlib import Path

from rdmp.decisionlog import MemoryDecisionLog
from rdmp.events import MemoryEventLog
from rdmp.hub import Hub
from rdmp.records import TxRecord
from rdmp.rpc import RpcError, RpcHandler
from rdmp.tls import TlsFiles


class Handler(RpcHandler):
    def __init__(self, files):
        self.log = MemoryDecisionLog()
        self.hub = Hub(files.identity(), self.log, MemoryEventLog(), self, epoch=1, incarnation="example")

    async def call(self, peer, method, params, progress):
        if method == "whoami":
            return {"identity": str(peer)}
        if method != "transfer":
            raise RpcError("unknown_method", f"there is no method {method}")
        if (record := await self.log.lookup(params["id"])) is None:  # the same id again is the same transaction
            parts = {name: {"prepare": change, "stages": {"post": {}}} for name, change in params["changes"].items()}
            record = TxRecord(params["id"], 0, 0, 0, "preparing", parts, ("post",), deadline=5)
            record = await self.hub.execute(record)
        return record.summary()


async def main() -> None:
    files = TlsFiles(*(Path(sys.argv[1]) / name for name in ("cert.pem", "key.pem", "ca.pem")))
    print(await Handler(files).hub.serve_tls("127.0.0.1", int(sys.argv[2]), files.server_context()), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
