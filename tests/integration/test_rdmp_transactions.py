# SPDX-License-Identifier: AGPL-3.0-or-later
"""Transactions between a hub and participants over real TLS connections and real journals."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rdmp.participant import Effect, Refused, Transaction
from rdmp.records import TxProgress
from rdmp.rpc import RpcError
from tests.integration.rdmp_support import FAST, Cluster, Pki, Recorder, record, running, until

WHOLE = ["prepare", "commit admit", "commit neighbours"]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, Pki(tmp_path / "pki"))


async def test_commit_is_carried_out_in_stages_on_all(cluster: Cluster) -> None:
    order: list[str] = []

    async def note(tx: Transaction, stage: str) -> None:
        order.append(stage)

    news: list[TxProgress] = []
    async with cluster.hub() as (hub, port), cluster.participants(port, "h1", "h2", "controller") as running:
        for recorder, _ in running.values():
            recorder.on_commit = note
        ended = await hub.execute(record("t.1", list(running)), news.append)
        assert (ended.state, ended.finished, ended.missing(), ended.epoch) == ("committed", True, (), 1)
        assert order == ["admit"] * 3 + ["neighbours"] * 3
        for recorder, runner in running.values():
            assert recorder.of("t.1") == WHOLE
            assert runner.state() == {"tx/t.1": {"stage": "neighbours", "seq": ended.seq}}
        kinds = [item.kind for item in news]
        assert kinds[0] == "created" and kinds[-1] == "finished" and kinds.count("vote") == 3
        assert {item.detail and item.detail["prepared"] for item in news if item.kind == "vote"} == {"t.1"}


async def test_a_refusal_aborts_everywhere_and_is_named(cluster: Cluster) -> None:
    async def refuse(tx: Transaction) -> None:
        raise Refused("no memory: 64 MiB free, 128 MiB needed")

    async with cluster.hub() as (hub, port), cluster.participants(port, "h1", "h2", "h3") as running:
        running["h2"][0].on_prepare = refuse
        ended = await hub.execute(record("t.1", list(running)))
        assert (ended.state, ended.finished) == ("aborted", True)
        assert ended.reason == "h2 voted no: no memory: 64 MiB free, 128 MiB needed"
        for recorder, runner in running.values():
            assert recorder.of("t.1")[-1] == "abort"
            assert not runner.state()


async def test_an_absent_participant_aborts_after_a_short_wait(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port), cluster.participants(port, "h1") as running:
        ended = await hub.execute(record("t.1", ["h1", "h9"]))
        # Nothing was sent to h9, so nothing is awaited from it.
        assert (ended.state, ended.finished) == ("aborted", True)
        assert ended.reason == "not connected for 0.5 s: h9"
        assert running["h1"][0].of("t.1") == ["prepare", "abort"]


async def test_a_participant_that_connects_in_time_takes_part(cluster: Cluster) -> None:
    async with cluster.hub(limits=dataclasses.replace(FAST, peer_wait=10.0)) as (hub, port):
        task = asyncio.create_task(hub.execute(record("t.1", ["h1"])))
        await asyncio.sleep(0.05)
        async with cluster.participants(port, "h1"):
            assert (await task).state == "committed"


async def test_a_deadline_cancels_the_effect_and_aborts(cluster: Cluster) -> None:
    cancelled = asyncio.Event()

    async def sleep(tx: Transaction) -> None:
        assert 0 < tx.deadline <= 0.3
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async with cluster.hub() as (hub, port), cluster.participants(port, "h1", "h2") as running:
        running["h1"][0].on_prepare = sleep
        ended = await hub.execute(record("t.1", list(running), deadline=0.3))
        assert (ended.state, ended.finished) == ("aborted", True)
        assert "h1" in (ended.reason or "") and "0.3" in (ended.reason or "")
        assert cancelled.is_set()
        assert running["h1"][0].of("t.1") == ["prepare", "abort"]


async def test_one_slow_transaction_delays_no_other(cluster: Cluster) -> None:
    release = asyncio.Event()

    async def hold(tx: Transaction) -> None:
        if tx.id == "slow":
            await release.wait()

    async with cluster.hub() as (hub, port), cluster.participants(port, "h1", "h2") as running:
        running["h1"][0].on_prepare = hold
        slow = asyncio.create_task(hub.execute(record("slow", list(running))))
        others = await asyncio.gather(*(hub.execute(record(f"t.{n}", list(running))) for n in range(50)))
        assert {other.state for other in others} == {"committed"} and not slow.done()
        release.set()
        assert (await slow).state == "committed"


async def test_a_failing_stage_is_repeated_and_told(cluster: Cluster) -> None:
    failures = iter([ValueError("engine is busy"), ValueError("engine is busy")])

    async def fail(tx: Transaction, stage: str) -> None:
        if (error := next(failures, None)) is not None:
            raise error

    async with cluster.hub() as (hub, port), cluster.participants(port, "h1") as running:
        running["h1"][0].on_commit = fail
        ended = await hub.execute(record("t.1", ["h1"]))
        assert ended.finished
        assert running["h1"][0].of("t.1") == ["prepare", *["commit admit"] * 3, "commit neighbours"]
        await until(lambda: any(event.topic == "participant.effect_failed" for event in cluster.events.all()))


async def test_an_effect_that_cancels_itself_is_a_failure(cluster: Cluster) -> None:
    async def cancel(tx: Transaction) -> None:
        raise asyncio.CancelledError("a library did it")

    async with cluster.hub() as (hub, port), cluster.participants(port, "h1") as running:
        running["h1"][0].on_prepare = cancel
        ended = await hub.execute(record("t.1", ["h1"]))
        assert ended.reason == "h1 voted no: prepare failed: cancelled from inside: a library did it"


async def test_execute_returns_when_a_stage_waits_too_long_and_goes_on(cluster: Cluster) -> None:
    limits = dataclasses.replace(FAST, stage_wait=0.3)
    gone = asyncio.Event()

    async def stop(tx: Transaction, stage: str) -> None:
        gone.set()
        await asyncio.sleep(60)

    async with cluster.hub(limits=limits) as (hub, port), cluster.participants(port, "h1"):
        async with cluster.participants(port, "h2") as away:
            away["h2"][0].on_commit = stop
            task = asyncio.create_task(hub.execute(record("t.1", ["h1", "h2"])))
            await gone.wait()
        ended = await task
        assert (ended.state, ended.finished, ended.missing()) == ("committed", False, ("h1", "h2"))
        assert ended.done == {"admit": ("h1",)}
        async with cluster.participants(port, "h2") as back:
            await until(lambda: cluster.log.records["t.1"].finished)
            recorder, runner = back["h2"]
            assert recorder.restored == ({}, ("t.1",))
            assert recorder.of("t.1") == ["commit admit", "commit neighbours"]
            assert set(runner.state()) == {"tx/t.1"}


async def test_an_interrupted_prepare_is_aborted_after_the_restart(cluster: Cluster) -> None:
    begun = asyncio.Event()

    async def hang(tx: Transaction) -> None:
        begun.set()
        await asyncio.sleep(60)

    async with cluster.hub(limits=dataclasses.replace(FAST, peer_wait=10.0)) as (hub, port):
        async with cluster.participants(port, "h1") as first:
            first["h1"][0].on_prepare = hang
            task = asyncio.create_task(hub.execute(record("t.1", ["h1"])))
            await begun.wait()
        async with cluster.participants(port, "h1") as second:
            ended = await task
            assert ended.reason == "h1 voted no: interrupted by a restart of the participant"
            await until(lambda: cluster.log.records["t.1"].finished)
            assert second["h1"][0].of("t.1") == ["abort"]


async def test_a_new_hub_aborts_what_was_undecided(cluster: Cluster) -> None:
    begun = asyncio.Event()

    async def hang(tx: Transaction) -> None:
        begun.set()
        await asyncio.sleep(60)

    async with cluster.hub(epoch=1) as (hub, port), cluster.participants(port, "h1", "h2") as running:
        running["h2"][0].on_prepare = hang
        task = asyncio.create_task(hub.execute(record("t.1", list(running), deadline=60)))
        await begun.wait()
        await hub.close()
        with pytest.raises(RpcError, match="stopping"):
            await task
        async with cluster.hub(epoch=2, port=port):
            await until(lambda: cluster.log.records["t.1"].finished)
            assert cluster.log.records["t.1"].reason == "the coordinator restarted before the decision"
            for recorder, runner in running.values():
                assert recorder.of("t.1") == ["prepare", "abort"]
                assert runner.epoch() == 2


async def test_a_new_hub_carries_on_what_was_decided(cluster: Cluster) -> None:
    begun = asyncio.Event()
    release = asyncio.Event()

    async def hold(tx: Transaction, stage: str) -> None:
        begun.set()
        await release.wait()

    async with cluster.hub(epoch=1) as (hub, port), cluster.participants(port, "h1", "h2") as running:
        running["h2"][0].on_commit = hold
        task = asyncio.create_task(hub.execute(record("t.1", list(running))))
        await begun.wait()
        await hub.close()
        with pytest.raises(RpcError, match="stopping"):
            await task
        release.set()
        async with cluster.hub(epoch=2, port=port):
            await until(lambda: cluster.log.records["t.1"].finished)
        assert [recorder.of("t.1") for recorder, _ in running.values()] == [WHOLE, WHOLE]


async def test_an_orchestrator_with_an_older_epoch_is_not_obeyed(cluster: Cluster) -> None:
    async with cluster.hub(epoch=5) as (_, port), cluster.participants(port, "h1"):
        pass
    async with cluster.hub(epoch=4) as (hub, port):
        files = cluster.pki.issue("agent", "h1")
        with pytest.raises(RpcError) as caught:
            await cluster.dial_raw(port, files, epoch=5)
        assert caught.value.code == "stale_epoch"
        assert not hub.peers()


async def test_the_newer_connection_of_a_participant_replaces_the_older(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port):
        files = cluster.pki.issue("agent", "h1")
        older = await cluster.dial_raw(port, files, boot="older")
        newer = await cluster.dial_raw(port, files, boot="newer")
        assert [(peer.name, peer.boot) for peer in hub.peers()] == [("h1", "newer")]
        await until(lambda: older.closing)
        assert not newer.closing
        assert [event.topic for event in cluster.events.all()] == ["peer.connected"] * 2
        newer.close("test")
        await until(lambda: not hub.peers())
        await until(lambda: cluster.events.all()[-1].topic == "peer.lost")


async def test_records_that_cannot_be_carried_out_are_refused(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, _):
        for wrong in (
            record("bad id!", ["h1"]),
            record("t.1", []),
            record("t.1", ["h1"], stages=["abort"]),
            record("t.1", ["h1"], deadline=0),
            dataclasses.replace(record("t.1", ["h1"]), stages=("other",)),
        ):
            with pytest.raises(ValueError, match="transaction"):
                await hub.execute(wrong)
        assert not cluster.log.records


async def test_a_transaction_can_be_aborted_by_order_until_it_is_decided(cluster: Cluster) -> None:
    begun = asyncio.Event()

    async def hang(tx: Transaction) -> None:
        begun.set()
        await asyncio.sleep(60)

    async with cluster.hub() as (hub, port), cluster.participants(port, "h1") as running:
        running["h1"][0].on_prepare = hang
        task = asyncio.create_task(hub.execute(record("t.1", ["h1"])))
        await begun.wait()
        assert hub.abort("t.1", "an operator said so") and not hub.abort("t.2", "unknown")
        assert (await task).reason == "an operator said so"


async def test_a_message_too_large_for_the_participant_aborts(cluster: Cluster) -> None:
    small = dataclasses.replace(FAST, max_message_bytes=2000)
    async with cluster.hub() as (hub, port), cluster.participants(port, "h1", limits=small):
        big = {"h1": {"prepare": {"text": "x" * 3000}, "stages": {"admit": {}}}}
        ended = await hub.execute(dataclasses.replace(record("t.1", ["h1"]), participants=big))
        assert ended.state == "aborted" and "message_too_large" in (ended.reason or "")


class Odd(Recorder):
    """A participant whose results cannot be stored as they are."""

    async def prepare(self, tx: Transaction) -> Effect:
        if tx.id == "t.1":
            raise Refused("not here", {"at": datetime.now(UTC)})
        return Effect({"file": "a\udcff"})

    async def commit(self, tx: Transaction, stage: str) -> Effect:
        return Effect({"log": "x" * 5_000_000}, "cannot read a\udcff" + "x" * 5000)


async def test_results_that_cannot_be_stored_or_sent_do_not_end_the_participant(cluster: Cluster) -> None:
    files = cluster.pki.issue("agent", "h1")
    async with cluster.hub() as (hub, port), running(Odd(), cluster.folder / "h1.journal", files, [port]):
        refused = await hub.execute(record("t.1", ["h1"]))
        assert (refused.state, refused.finished, refused.reason) == ("aborted", True, "h1 voted no: not here")
        done = await hub.execute(record("t.2", ["h1"]))
        assert (done.state, done.finished) == ("committed", True)
        assert done.degraded["h1"].startswith("cannot read a\\udcffxxx") and len(done.degraded["h1"]) == 4096
