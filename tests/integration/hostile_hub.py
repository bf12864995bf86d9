# SPDX-License-Identifier: AGPL-3.0-or-later
"""A hub in a process of its own, made to be attacked: python -m tests.integration.hostile_hub FOLDER.

Prints one line of JSON with its ports. Its log goes to the standard error, as odysseyd's does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdmp.hub import Hub
from rdmp.limits import Limits
from rdmp.rpc import ProgressSender, RpcError
from rdmp.tls import Identity
from tests.integration.rdmp_support import Cluster, Echo, Pki, record
from tests.integration.rdmp_victim import leave_with_parent

LIMITS = Limits(
    heartbeat=0.5, heartbeat_misses=10, handshake_timeout=1.5, frame_timeout=1.0, messages_per_second=1000,
    offences_per_connection=20, handshakes_per_address=100, max_connections=3000, connections_per_certificate=10,
    peer_wait=0.2, repeat_interval=0.5, stage_wait=1.0, calls_per_peer=8, send_queue_messages=1000,
)  # fmt: skip


class Guarded(Echo):
    """Echo, for operators only; and for them the hub's counters and a transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.hub: Hub | None = None

    async def call(
        self, peer: Identity, method: str, params: Mapping[str, Any], progress: ProgressSender
    ) -> Mapping[str, Any]:
        if peer.role != "operator":
            raise RpcError("forbidden", f"{peer} may not call {method}")
        assert self.hub is not None
        if method == "counters":
            return self.hub.counters()
        if method == "transaction":
            ended = await self.hub.execute(record(params["id"], params["participants"]))
            return {"state": ended.state}
        return await super().call(peer, method, params, progress)


async def main(folder: Path) -> None:
    """Serve until the parent is gone."""
    asyncio.get_running_loop().run_in_executor(None, leave_with_parent)
    handler = Guarded()
    cluster = Cluster(folder, Pki(folder / "pki"), handler=handler)
    for identity in ("operator alice", "operator eve", "publisher pub", "agent h1", "agent h2"):
        cluster.pki.issue(*identity.split())
    async with cluster.hub(limits=LIMITS) as (hub, port):
        handler.hub = hub
        print(json.dumps({"tls": port, "plain": await hub.serve_plain()}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    asyncio.run(main(Path(sys.argv[1])))
