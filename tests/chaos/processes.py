# SPDX-License-Identifier: AGPL-3.0-or-later
"""What runs in each process: python -m tests.chaos.processes hub|member|caller FOLDER NAME SEED.

The hub is the production `Hub` on the production store; a member is the production runner with a world on disk; a
caller asks for transactions under ids of its own and repeats each id until it is answered, also after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import random
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from odyssey.state.decisions import StoreDecisionLog
from odyssey.state.eventlog import StoreEventLog
from odyssey.state.sqlite import SqliteStore
from odyssey.state.view import StateView
from rdmp.client import Client
from rdmp.endpoints import Endpoint
from rdmp.hub import Hub
from rdmp.limits import Limits
from rdmp.records import TxRecord
from rdmp.rpc import PeerAbsent, ProgressSender, RpcError, RpcHandler
from rdmp.runner import ParticipantRunner
from rdmp.tls import Identity, TlsFiles
from tests.chaos.world import World, WorldParticipant

ADDRESS = "10.77.0.1"
PORT = 7420
LIMITS = Limits(
    heartbeat=0.3, reconnect_min=0.05, reconnect_max=0.5, peer_wait=0.5, stage_wait=2.0, repeat_interval=0.5,
    inquire_interval=0.3, effect_retry_min=0.05, effect_retry_max=0.5, handshake_timeout=2.0,
)  # fmt: skip
STAGES = ("admit", "neighbours", "stop")
KEPT = 100_000  # finished transactions, so that a caller may repeat an id at any time of the run
_LANES = 3
_PACE = 0.1  # seconds, at most, between two transactions of a lane
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Transactions(RpcHandler):
    """``run``: carry a transaction out once, however often its id is repeated, and answer with its decision."""

    def __init__(self, log: StoreDecisionLog) -> None:
        self._log = log
        self._running: dict[str, asyncio.Task[TxRecord]] = {}
        self.hub: Hub | None = None

    async def call(
        self, peer: Identity, method: str, params: Mapping[str, Any], progress: ProgressSender
    ) -> Mapping[str, Any]:
        if method != "run" or self.hub is None:
            raise RpcError("unknown_method", method)
        tx = params["id"]
        if (known := await self._log.lookup(tx)) is not None and known.state != "preparing":
            return {"state": known.state, "repeated": True}
        if (task := self._running.get(tx)) is None:
            if known is not None:
                raise RpcError("preparing", f"{tx} is taken up after a restart; repeat")
            record = TxRecord(tx, 0, 0, 0, "preparing", params["participants"], STAGES, deadline=params["deadline"])
            task = self._running[tx] = asyncio.create_task(self.hub.execute(record))
            task.add_done_callback(lambda _: self._running.pop(tx, None))
        return {"state": (await asyncio.shield(task)).state, "repeated": False}


async def hub(folder: Path, name: str) -> None:
    """Run the orchestrator on the store in ``FOLDER/disk``."""
    files = _files(folder, "orchestrator", name)
    store = SqliteStore(folder / "disk")
    await store.open()
    lease = await store.acquire(name)
    view = StateView()
    log = StoreDecisionLog(store, view, kept=KEPT)
    await log.load()
    handler = Transactions(log)
    handler.hub = Hub(files.identity(), log, StoreEventLog(store), handler, lease.epoch, store.incarnation, LIMITS)
    await handler.hub.recover()
    await handler.hub.serve_tls(ADDRESS, PORT, files.server_context())
    await _terminated()
    await handler.hub.close()
    await store.close()


async def member(folder: Path, name: str) -> None:
    """Run a participant whose journal and world are in ``FOLDER/disk``."""
    files = _files(folder, "agent", name)
    participant = WorldParticipant(World(folder / "disk/world"))
    runner = ParticipantRunner(
        participant, folder / "disk/journal", files.identity(), [Endpoint("tls", ADDRESS, PORT)], files, LIMITS
    )
    task = asyncio.create_task(runner.run())
    ended = asyncio.create_task(_terminated())
    await asyncio.wait([task, ended], return_when=asyncio.FIRST_COMPLETED)
    await runner.stop()
    await task


class Caller:
    """Asks, repeats, and notes ``ask <id>``, ``repeat <id>`` and ``answer <id> <state>`` in FOLDER/notes."""

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        self._folder = folder
        self._files = _files(folder, "operator", name)
        self._name = name
        self._rng = random.Random(f"{name} {seed} {os.getpid()}")
        self._members: list[str] = (folder.parent / "members").read_text().split()
        self._notes = (folder / "notes").open("a", buffering=1)
        self._client: Client | None = None
        self._connecting = asyncio.Lock()

    async def run(self) -> None:
        """Ask until FOLDER/../quiet exists and everything is answered."""
        open_ids = _unanswered(self._folder / "notes")
        await asyncio.gather(*(self._answered(tx, "repeat") for tx in open_ids))
        await asyncio.gather(*(self._lane(f"{self._name}.{os.getpid()}.{lane}") for lane in range(_LANES)))
        self._notes.write("finished\n")
        await _terminated()

    async def _lane(self, prefix: str) -> None:
        number = 0
        while not (self._folder.parent / "quiet").exists():
            number += 1
            await self._answered(f"{prefix}.{number}", "ask")
            await asyncio.sleep(self._rng.uniform(0.0, _PACE))

    async def _answered(self, tx: str, word: str) -> None:
        params = self._transaction(tx)
        while True:
            self._notes.write(f"{word} {tx}\n")
            word = "repeat"
            patience = 0.05 if self._rng.random() < 0.1 else 3.0
            results = await asyncio.gather(
                *(self._call(params, patience) for _ in range(2 if self._rng.random() < 0.1 else 1))
            )
            states = {state for state in results if state}
            for state in states:
                self._notes.write(f"answer {tx} {state}\n")
            if states:
                return
            await asyncio.sleep(self._rng.uniform(0.05, 0.5))

    async def _call(self, params: Mapping[str, Any], patience: float) -> str | None:
        try:
            client = await self._connected()
        except (RpcError, OSError):
            return None
        try:
            return str((await client.call("run", params, timeout=patience))["state"])
        except RpcError as error:
            if isinstance(error, PeerAbsent) and self._client is client:
                self._client = None
            return None

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None:
                client = Client(LIMITS)
                await client.connect(Endpoint("tls", ADDRESS, PORT), self._files)
                self._client = client
            return self._client

    def _transaction(self, tx: str) -> dict[str, Any]:
        rng = random.Random(tx)  # the same id is always the same transaction
        names = rng.sample(self._members, rng.randint(2, len(self._members)))
        stages: dict[str, Any] = {stage: {} for stage in STAGES if rng.random() < 0.7} or {"admit": {}}
        refuse = rng.choice(names) if rng.random() < 0.1 else None
        operations = {name: {"prepare": {"refuse": name == refuse}, "stages": stages} for name in names}
        return {"id": tx, "participants": operations, "deadline": rng.choice([0.5, 2.0, 5.0])}


def _unanswered(notes: Path) -> list[str]:
    lines = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
    answered = {line[1] for line in lines if line[0] == "answer"}
    return list(dict.fromkeys(line[1] for line in lines if line[0] == "ask" and line[1] not in answered))


def _files(folder: Path, role: str, name: str) -> TlsFiles:
    pki = folder.parent / "pki"
    return TlsFiles(pki / f"{role}-{name}.pem", pki / f"{role}-{name}.key", pki / "ca.pem")


async def _terminated() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, event.set)
    await event.wait()


def main(kind: str, folder: Path, name: str, seed: int) -> None:
    """Run one process until SIGTERM; it dies with the process that started it, even while it is stopped."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    match kind:
        case "hub":
            work = hub(folder, name)
        case "member":
            work = member(folder, name)
        case _:
            work = Caller(folder, name, seed).run()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
