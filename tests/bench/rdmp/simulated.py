# SPDX-License-Identifier: AGPL-3.0-or-later
"""Simulated participants: real protocol, journal, TLS and sockets, but effects that do nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rdmp.frames import dump
from rdmp.groupcommit import GroupCommit
from rdmp.journal import Journal, Journalled
from rdmp.participant import Effect, Participant, Transaction
from rdmp.participant_table import Meta, Write
from rdmp.records import TxRecord
from rdmp.rpc import ProgressSender, RpcError, RpcHandler
from rdmp.tls import Identity

CLUSTER = "bench"
STAGE = "apply"
DEADLINE = 60.0
_SHARED = """
CREATE TABLE IF NOT EXISTS written (
    participant TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (participant, key)) WITHOUT ROWID;
"""
_PUT = "INSERT OR REPLACE INTO written VALUES (?, ?, ?)"
_DELETE = "DELETE FROM written WHERE participant = ? AND key = ?"


class Simulated(Participant):
    """Prepares and commits at once; each commit leaves a state document."""

    async def prepare(self, tx: Transaction) -> Effect:
        return Effect()

    async def commit(self, tx: Transaction, stage: str) -> Effect:
        return Effect(state={"last": {"tx": tx.id, "seq": tx.seq}})

    async def abort(self, tx: Transaction) -> Effect:
        return Effect()

    async def status(self, tx_id: str) -> Mapping[str, Any]:
        return {"tx": tx_id}

    async def observe(self) -> Mapping[str, Any]:
        return {"revision": 0}

    async def call(
        self, method: str, params: Mapping[str, Any], progress: Callable[[Mapping[str, Any]], Awaitable[None]]
    ) -> Mapping[str, Any]:
        if method != "echo":
            raise RpcError("unknown_method", f"there is no method {method!r}")
        return params

    async def restore(self, state: Mapping[str, Mapping[str, Any]], in_doubt: Sequence[Transaction]) -> None:
        return None


class Echo(RpcHandler):
    """Answers every call of a peer with its parameters."""

    async def call(
        self, peer: Identity, method: str, params: Mapping[str, Any], progress: ProgressSender
    ) -> Mapping[str, Any]:
        return params


class SharedJournal(Journal):
    """The journal of one of many participants of a process, all in one file with one thread.

    Everything is as durable as in a journal of its own; only the `fsync` is shared with the others of the process. It
    always begins empty: the participants of a benchmark are not restarted.
    """

    def __init__(self, path: Path, participant: str, file: GroupCommit) -> None:
        self.path = path
        self._participant = participant
        self.file = file

    @staticmethod
    async def shared(path: Path) -> GroupCommit:
        """Open the file that the journals of a process share."""
        file = GroupCommit(path, _SHARED, limit=100_000)
        await file.open()
        return file

    async def open(self) -> Journalled:
        return Journalled((), Meta(), {})

    async def write(self, writes: Sequence[Write]) -> None:
        await self.file.run(lambda connection: _store(connection, self._participant, writes))

    async def close(self) -> None:
        return None


def _store(connection: sqlite3.Connection, participant: str, writes: Sequence[Write]) -> None:
    for write in writes:
        if (entry := write.entry) is not None:
            fields = [
                entry.seq, entry.epoch, entry.phase.value, entry.operation, entry.deadline, entry.reason, entry.detail,
                entry.stage, entry.done,
            ]  # fmt: skip
            connection.execute(_PUT, (participant, f"tx/{entry.id}", dump(fields)))
        for key, document in write.state.items():
            connection.execute(_PUT, (participant, f"state/{key}", dump(document)))
        if write.meta is not None:
            connection.execute(_PUT, (participant, "meta", dump(asdict(write.meta))))
        connection.executemany(_DELETE, [(participant, f"tx/{tx}") for tx in write.forget])


def record(tx: str, participants: Sequence[str], number: int) -> TxRecord:
    """A new transaction that changes one state document of the orchestrator."""
    operation = {"prepare": {"number": number}, "stages": {STAGE: {"number": number}}}
    changes = {f"bench/{number % 100}": {"number": number}}
    return TxRecord(
        tx, 0, 0, 0, "preparing", dict.fromkeys(participants, operation), (STAGE,), changes, deadline=DEADLINE
    )
