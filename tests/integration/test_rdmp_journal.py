# SPDX-License-Identifier: AGPL-3.0-or-later
"""The participant's journal on a real disk."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rdmp.journal import Journal, JournalError
from rdmp.participant_table import Entry, Meta, Phase, Write
from tests.integration.rdmp_support import Cluster, Pki, record

ENTRY = Entry(
    "t.1", 7, 3, Phase.COMMITTING, {"prepare": None, "stages": {"admit": {"ü": [1, None]}}}, 12.5, "why", {"a": 1},
    "admit", {"names": {"degraded": "slow"}},
)  # fmt: skip


async def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal"
    journal = Journal(path)
    assert (await journal.open()).meta == Meta()
    meta = Meta(epoch=3, incarnation="i1", low_water=5)
    await journal.write([
        Write(1, replace(ENTRY, phase=Phase.PREPARED)),
        Write(2, ENTRY, {"node/a": {"x": 1}, "node/b": {"y": 2}}, meta),
        Write(3, replace(ENTRY, id="t.2", seq=1), {"node/b": None}),
        Write(4, forget=("t.2",)),
    ])  # fmt: skip
    await journal.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = await Journal(path).open()
    assert again.entries == (ENTRY,)
    assert again.meta == meta
    assert again.state == {"node/a": {"x": 1}}


async def test_writes_reach_the_disk_in_full_mode(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    await journal.open()
    await asyncio.gather(*(journal.write([Write(n, replace(ENTRY, id=f"t.{n}"))]) for n in range(100)))
    # Another connection sees what is committed, while the journal is still open.
    with sqlite3.connect(tmp_path / "journal") as other:
        assert other.execute("SELECT count(*) FROM tx").fetchone() == (100,)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await journal.close()


async def test_a_broken_journal_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"this is no database, and it must not be thrown away" * 100)
    with pytest.raises(JournalError, match="do not delete it"):
        await Journal(path).open()
    assert path.read_bytes().startswith(b"this is no database")


async def test_a_journal_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "journal") as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(JournalError, match="format 99"):
        await Journal(tmp_path / "journal").open()


async def test_a_participant_stops_when_its_journal_fails(tmp_path: Path) -> None:
    """It must not go on without memory; started again, it takes up what it had promised."""
    cluster = Cluster(tmp_path, Pki(tmp_path / "pki"))
    async with cluster.hub() as (hub, port):
        with pytest.raises(JournalError, match="free space or repair the disk"):
            async with cluster.participants(port, "h1"):
                with sqlite3.connect(tmp_path / "h1.journal") as other:
                    other.execute("DROP TABLE tx")
                task = asyncio.create_task(hub.execute(record("t.1", ["h1"], deadline=0.5)))
                await task
        assert cluster.log.records["t.1"].state == "aborted"


async def test_whatever_a_write_raises_is_an_error_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Journal, writes: Sequence[Write]) -> None:
        raise AttributeError("no such thing")

    cluster = Cluster(tmp_path, Pki(tmp_path / "pki"))
    async with cluster.hub() as (hub, port):
        with pytest.raises(JournalError, match=r"no such thing.*defect of the program"):
            async with cluster.participants(port, "h1"):
                monkeypatch.setattr(Journal, "write", fail)
                await hub.execute(record("t.1", ["h1"], deadline=0.5))
