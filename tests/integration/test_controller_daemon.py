# SPDX-License-Identifier: AGPL-3.0-or-later
"""odyssey-controller as a process: transactions by RDMP, SIGKILL in the middle of one, traffic without it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import urllib.request
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rdmp.decisionlog import MemoryDecisionLog
from rdmp.endpoints import Endpoint
from rdmp.events import MemoryEventLog
from rdmp.hub import Hub
from rdmp.participant import Effect, Transaction
from rdmp.records import TxRecord
from rdmp.runner import ParticipantRunner
from tests.integration import controller_support as support
from tests.integration.controller_harness import NODES, closed, intent, reaches
from tests.integration.controller_process import Daemon
from tests.integration.controller_support import Lab, Pki, server
from tests.integration.rdmp_support import FAST, Echo, Recorder
from tests.unit.controller import samples

pytest_plugins = ["tests.integration.controller_fixtures"]


class Site:
    """A hub in this process, the daemon, and the switches that know it."""

    def __init__(self, hub: Hub, daemon: Daemon, rdmp_port: int, events: MemoryEventLog) -> None:
        self.hub = hub
        self.daemon = daemon
        self.rdmp_port = rdmp_port
        self.events = events

    async def until(self, condition: Any, what: str, seconds: float = 20.0) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}\n{self.daemon.log()}"
            await asyncio.sleep(0.02)

    async def controller_is_there(self) -> None:
        await self.until(
            lambda: "controller" in {peer.name for peer in self.hub.peers()}, "the controller is connected"
        )

    async def lead(self, generation: int = 1) -> None:
        """What odysseyd does: appoint the controller."""
        await self.hub.call("controller", "lead", {"generation": generation}, 5.0)

    async def switches_are_there(self) -> None:
        for _ in range(500):
            answer = await self.hub.call("controller", "switches", {}, 5.0)
            if answer["switches"] and all(one["connected"] for one in answer["switches"].values()):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(self.daemon.log())

    async def execute(self, tx: str, changes: Mapping[str, Any], stage: str = "admit", **more: Any) -> TxRecord:
        operation = {"prepare": {"changes": changes, **more}, "stages": {stage: {"changes": changes}}}
        record = TxRecord(tx, 0, 0, 0, "preparing", {"controller": operation}, (stage,), deadline=10.0)
        return await self.hub.execute(record, lambda progress: None)


@pytest.fixture
async def site(ctl_lab: Lab, ctl_pki: Pki, tmp_path: Path) -> AsyncIterator[Site]:
    ctl_lab.forget()
    files = ctl_pki.issue("orchestrator", "o1")
    log, events = MemoryDecisionLog(), MemoryEventLog()
    hub = Hub(files.identity(), log, events, Echo(), 1, "i1", FAST)
    await hub.recover()
    rdmp_port = await hub.serve_tls("127.0.0.1", 0, files.server_context())
    daemon = Daemon(tmp_path, ctl_pki.issue("controller", "controller"), rdmp_port)
    made = Site(hub, daemon, rdmp_port, events)
    try:
        await daemon.start()
        await made.controller_is_there()
        await made.lead()
        for name in support.SWITCHES:
            switch = ctl_lab.switches[name]
            await asyncio.to_thread(switch.set_controller, ctl_pki.issue("switch", name), daemon.port)
        await made.until(lambda: all(switch.connected() for switch in ctl_lab.switches.values()), "switches")
        yield made
    finally:
        with contextlib.suppress(AssertionError, TimeoutError):
            await daemon.end(signal.SIGKILL)
        await hub.close()


def committed(record: TxRecord) -> bool:
    assert record.state == "committed" and record.finished, record.reason
    return True


async def test_transactions_reach_the_switches_and_traffic_outlives_the_daemon(site: Site, ctl_lab: Lab) -> None:
    documents = intent()
    inventory = {"inventory": documents.pop("inventory")}
    first = await site.execute("tx-1", inventory)
    assert committed(first)
    assert committed(await site.execute("tx-2", documents))
    observed = await site.hub.call("controller", "observe", {}, 5.0)
    assert observed["revision"] == 2 and observed["bindings"]["app-1"] == "admitted"
    assert {event.topic for event in await site.events.read(1, 100)} >= {"switch.connected"}
    with server("app-2", 8080), server("db-1", 5432):
        assert await reaches("lb-1", "app-2", 8080)
        before = {name: switch.flows() for name, switch in ctl_lab.switches.items()}
        await site.daemon.end(signal.SIGKILL)
        assert await reaches("app-1", "db-1", 5432)
        await site.daemon.start()
        await site.controller_is_there()
        await site.switches_are_there()
        assert {name: switch.flows() for name, switch in ctl_lab.switches.items()} == before
        assert committed(await site.execute("tx-3", {"binding/app-2": None}, "retire"))
        assert await closed("lb-1", "app-2", 8080)
    assert await site.daemon.end(signal.SIGTERM) == 0


async def test_metrics_are_served_and_begin_anew_with_the_daemon(site: Site) -> None:
    documents = intent()
    inventory = {"inventory": documents.pop("inventory")}
    assert committed(await site.execute("tx-1", inventory))
    assert committed(await site.execute("tx-2", documents))

    async def sent(node: str) -> float:
        def read() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{site.daemon.metrics_port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        families = text_string_to_metric_families(await asyncio.to_thread(read))
        samples = [sample for family in families for sample in family.samples]
        assert {one.value for one in samples if one.name == "odyssey_switch_connected"} == {1.0}
        [value] = [
            one.value
            for one in samples
            if one.name == "odyssey_node_sent_packets_total" and one.labels["node"] == node
        ]
        return value

    with server("app-2", 8080):
        assert await reaches("lb-1", "app-2", 8080)
        seen = 0.0
        for _ in range(20):
            seen = seen or await sent("lb-1")
            await asyncio.sleep(0.25)
        assert seen > 0
    await site.daemon.end(signal.SIGKILL)
    await site.daemon.start()
    await site.controller_is_there()
    await site.switches_are_there()
    assert await sent("lb-1") >= seen, "the switch kept its counters, and the controller begins with them"


class SlowAgent(Recorder):
    """Votes when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_vote = asyncio.Event()

    async def prepare(self, tx: Transaction) -> Effect:
        await self.may_vote.wait()
        return await super().prepare(tx)


@pytest.mark.parametrize("decision", ["committed", "aborted"])
async def test_a_kill_between_vote_and_decision_loses_nothing(
    site: Site, ctl_lab: Lab, ctl_pki: Pki, tmp_path: Path, decision: str
) -> None:
    documents = intent()
    binding = documents.pop("binding/app-2")
    assert committed(await site.execute("tx-1", documents))
    before = {name: switch.flows() for name, switch in ctl_lab.switches.items()}
    agent, files = SlowAgent(), ctl_pki.issue("agent", "h2")
    endpoint = Endpoint("tls", "127.0.0.1", site.rdmp_port)
    runner = ParticipantRunner(agent, tmp_path / "agent.sqlite", files.identity(), [endpoint], files, FAST)
    serving = asyncio.create_task(runner.run())
    try:
        await runner.connected()
        stages = {"admit": {"changes": {"binding/app-2": binding}}}
        operation = {"prepare": {"changes": {"binding/app-2": binding}, "dark": {"binding/app-2": binding}}}
        participants: dict[str, Any] = {
            "controller": {**operation, "stages": stages},
            "h2": {"prepare": {}, "stages": {"admit": {}}},
        }
        record = TxRecord("tx-2", 0, 0, 0, "preparing", participants, ("admit",), deadline=3.0)
        done = asyncio.create_task(site.hub.execute(record, lambda progress: None))
        await site.until(lambda: any(NODES["app-2"][1] in line for line in ctl_lab.switches["sw1"].flows()), "dark")
        await asyncio.sleep(0.3)  # the vote is on its way
        await site.daemon.end(signal.SIGKILL)
        if decision == "committed":
            agent.may_vote.set()
        await site.daemon.start()
        outcome = await asyncio.wait_for(done, 30)
        assert outcome.state == decision
        await site.controller_is_there()
        with server("app-2", 8080):
            if decision == "committed":
                assert outcome.finished
                assert await reaches("lb-1", "app-2", 8080)
            else:
                await site.until(
                    lambda: {name: switch.flows() for name, switch in ctl_lab.switches.items()} == before, "no trace"
                )
                assert await closed("app-2", "db-1", 5432)
        observed = await site.hub.call("controller", "observe", {}, 5.0)
        assert observed["open"] == {}
        assert ("app-2" in observed["bindings"]) == (decision == "committed")
    finally:
        agent.may_vote.set()
        await runner.stop()
        await serving


async def test_a_second_controller_with_one_journal_is_refused(site: Site) -> None:
    second = Daemon.__new__(Daemon)
    second.folder = site.daemon.folder
    await second.start()
    assert second.process is not None
    assert await asyncio.wait_for(second.process.wait(), 15) == 78
    assert "another controller holds" in site.daemon.log()


async def test_the_orchestrator_hears_of_switches_that_come_and_go(site: Site, ctl_lab: Lab, ctl_pki: Pki) -> None:
    assert committed(await site.execute("tx-1", {"inventory": samples.inventory()}))
    ctl_lab.switches["sw2"].vsctl("del-controller", "sw2")

    async def topics() -> list[tuple[str, Any]]:
        return [(event.topic, event.data.get("switch")) for event in await site.events.read(1, 100)]

    for _ in range(500):
        if ("switch.lost", "sw2") in await topics():
            break
        await asyncio.sleep(0.02)
    assert ("switch.lost", "sw2") in await topics()
    refused = await site.execute("tx-2", {"network/shop/lb": samples.network(1, "172.16.10.0/24")})
    assert refused.state == "aborted" and refused.reason and "switch sw2 is not connected" in refused.reason
