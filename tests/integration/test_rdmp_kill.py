# SPDX-License-Identifier: AGPL-3.0-or-later
"""SIGKILL of a participant's process: exactly between vote and commit, and again and again at random moments."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from rdmp.hub import Hub
from rdmp.participant import Transaction
from rdmp.records import TxProgress, TxRecord
from tests.integration.rdmp_support import Cluster, Pki, record, until
from tests.integration.rdmp_victim import FileParticipant

ROOT = Path(__file__).parents[2]
NAMES = ("h1", "victim")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, Pki(tmp_path / "pki"))


class Victim:
    """The process of one participant."""

    def __init__(self, cluster: Cluster, port: int) -> None:
        self.folder = cluster.folder / "victim"
        self._port = port
        self._process: asyncio.subprocess.Process | None = None
        cluster.pki.issue("agent", "victim")

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.integration.rdmp_victim", self.folder, "victim", str(self._port),
            cwd=ROOT, stdin=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()


def present(hub: Hub) -> bool:
    return any(peer.name == "victim" for peer in hub.peers())


async def test_killed_between_vote_and_commit(cluster: Cluster) -> None:
    killed = asyncio.Event()
    voted = asyncio.Event()

    async def hold(tx: Transaction) -> None:
        await killed.wait()  # so that the decision falls when the victim is dead

    def watch(progress: TxProgress) -> None:
        if progress.kind == "vote" and progress.participant == "victim":
            voted.set()

    async with cluster.hub() as (hub, port), cluster.participants(port, "h1") as running:
        running["h1"][0].on_prepare = hold
        victim = Victim(cluster, port)
        await victim.start()
        await until(lambda: present(hub))
        task = asyncio.create_task(hub.execute(record("t.1", NAMES, deadline=30.0), watch))
        await voted.wait()
        await victim.kill()
        killed.set()
        await until(lambda: cluster.log.records["t.1"].state == "committed")
        things = FileParticipant(victim.folder)
        assert things.things("t.1") == ["prepared"]
        await victim.start()
        ended = await task
        assert ended.finished and not ended.degraded
        assert things.things("t.1") == ["prepared", "admit", "neighbours"]
        assert (things.made / "t.1").read_text().split() == ["prepared", "admit", "neighbours"]
        await victim.kill()


async def test_killed_again_and_again(cluster: Cluster) -> None:
    ended: list[TxRecord] = []
    rng = random.Random(1)

    async def work(hub: Hub, lane: int, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            await until(lambda: present(hub) or stop.is_set())
            ended.append(await hub.execute(record(f"t.{lane}.{number}", NAMES)))
            number += 1

    async with cluster.hub() as (hub, port), cluster.participants(port, "h1") as running:
        victim = Victim(cluster, port)
        stop = asyncio.Event()
        lanes = [asyncio.create_task(work(hub, lane, stop)) for lane in range(3)]
        for _ in range(6):
            await victim.start()
            await until(lambda: present(hub))
            await asyncio.sleep(rng.uniform(0.0, 0.15))
            await victim.kill()
        await victim.start()
        await until(lambda: present(hub))
        stop.set()
        await asyncio.gather(*lanes)
        await until(lambda: all(one.finished for one in cluster.log.records.values()))
        await victim.kill()
        verdict(cluster, running["h1"][0].of, FileParticipant(victim.folder))
    assert {one.state for one in ended} >= {"committed"}


def verdict(cluster: Cluster, done_by_h1: object, victim: FileParticipant) -> None:
    """Assert that both participants did the same, once."""
    assert callable(done_by_h1)
    for tx, one in cluster.log.records.items():
        if one.state == "committed":
            assert victim.things(tx) == ["prepared", "admit", "neighbours"]
            assert max(Counter((victim.made / tx).read_text().split()).values()) == 1
            assert done_by_h1(tx) == ["prepare", "commit admit", "commit neighbours"]
        else:
            assert victim.things(tx) == []
            assert done_by_h1(tx)[-1:] in ([], ["abort"])
