# SPDX-License-Identifier: AGPL-3.0-or-later
"""The orchestrator's side as a process of its own: odyssey's SQLite store and decision log under RDMP's hub."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from odyssey.state.decisions import StoreDecisionLog
from odyssey.state.eventlog import StoreEventLog
from odyssey.state.sqlite import SqliteStore
from odyssey.state.view import StateView
from rdmp.hub import Hub
from rdmp.limits import Limits
from rdmp.records import TxProgress
from rdmp.tls import TlsFiles
from rdmp.tuning import collect_rarely
from tests.bench.rdmp.simulated import Echo, record
from tests.bench.rdmp.support import Json, memory, obey, raise_file_limit, spread


class Orchestrator:
    """Obeys the orders of a measurement."""

    def __init__(self, hub: Hub, store: SqliteStore) -> None:
        self._hub = hub
        self._store = store
        self._number = time.time_ns()
        self._late = 0.0
        self._watch = asyncio.create_task(self._watch_loop())

    async def wait_peers(self, order: Json) -> Json:
        """Until `count` peers are connected; how many there are after each half second."""
        begun, timeline = time.monotonic(), []
        while (connected := len(self._hub.peers())) < order["count"]:
            elapsed = time.monotonic() - begun
            timeline.append([round(elapsed, 1), connected])
            if elapsed > order["timeout"]:
                return {"seconds": None, "connected": connected, "timeline": timeline}
            await asyncio.sleep(0.05 if connected < 2000 else 0.5)
        return {"seconds": time.monotonic() - begun, "connected": connected, "timeline": timeline}

    async def saturate(self, order: Json) -> Json:
        """Keep `open` transactions open for `seconds`; counts those that finished in that time."""
        times: list[float] = []
        end = time.monotonic() + order["seconds"]

        async def one_after_another() -> None:
            while time.monotonic() < end:
                times.append(await self._one(order["participants"]))

        usage, begun = self._usage(), time.monotonic()
        await asyncio.gather(*(one_after_another() for _ in range(order["open"])))
        elapsed = time.monotonic() - begun
        after = self._usage()
        return {"count": len(times), "seconds": elapsed, **spread(times), "used": _difference(usage, after)}

    async def idle(self, order: Json) -> Json:
        """`count` transactions one after another, with a pause before each."""
        times = []
        for _ in range(order["count"]):
            await asyncio.sleep(order["pause"])
            times.append(await self._one(order["participants"]))
        return spread(times)

    async def fan_out(self, order: Json) -> Json:
        """One transaction with all participants that are connected: when it had all votes, and when it ended."""
        names = sorted(peer.name for peer in self._hub.peers() if peer.role == "agent")
        at: dict[str, float] = {}

        def watch(progress: TxProgress) -> None:
            at.setdefault(progress.kind, time.monotonic())

        self._number += 1
        self._late = 0.0
        cpu = time.process_time()
        begun = time.monotonic()
        done = await self._hub.execute(record(f"fan-{self._number}", names, self._number), watch)
        ended = time.monotonic()
        if not done.finished or done.state != "committed":
            raise RuntimeError(f"it is {done.state}: {done.reason}; missing {len(done.missing())}")
        return {
            "participants": len(names),
            "votes_in": at["prepared"] - begun,
            "decided": at["decided"] - begun,
            "finished": ended - begun,
            "cpu": time.process_time() - cpu,
            "loop_late": self._late,
        }

    async def usage(self, order: Json) -> Json:
        """Processor, memory, fsyncs, and how late the event loop was at most since the last question."""
        late, self._late = self._late, 0.0
        return {**self._usage(), "loop_late": late, "peers": len(self._hub.peers())}

    async def _one(self, participants: list[str]) -> float:
        self._number += 1
        begun = time.perf_counter()
        done = await self._hub.execute(record(f"tx-{self._number}", participants, self._number))
        if not done.finished or done.state != "committed":
            raise RuntimeError(f"{done.id} is {done.state}: {done.reason}")
        return time.perf_counter() - begun

    def _usage(self) -> Json:
        return {"cpu": time.process_time(), "rss": memory(), "syncs": self._store.syncs}

    async def _watch_loop(self) -> None:
        while True:
            expected = time.monotonic() + 0.02
            await asyncio.sleep(0.02)
            self._late = max(self._late, time.monotonic() - expected)


def _difference(before: Json, after: Json) -> Json:
    return {name: after[name] - before[name] for name in ("cpu", "syncs")}


async def main(settings: dict[str, Any]) -> None:
    """Serve until standard input ends."""
    raise_file_limit()
    collect_rarely()
    logging.basicConfig(level=logging.ERROR)
    store = SqliteStore(Path(settings["folder"]))
    await store.open()
    lease = await store.acquire("bench")
    log = StoreDecisionLog(store, StateView())
    await log.load()
    files = TlsFiles(*(Path(name) for name in settings["tls"]))
    limits = Limits.from_table(settings["limits"])
    hub = Hub(files.identity(), log, StoreEventLog(store), Echo(), lease.epoch, store.incarnation, limits)
    await hub.recover()
    port = await hub.serve_tls(settings["host"], settings["port"], files.server_context())
    it = Orchestrator(hub, store)
    orders = {
        "wait_peers": it.wait_peers, "saturate": it.saturate, "idle": it.idle, "fan_out": it.fan_out, "usage": it.usage,
    }  # fmt: skip
    await obey({"port": port, "rss": memory()}, orders)
    await hub.close()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
