# SPDX-License-Identifier: AGPL-3.0-or-later
"""odyssey-netconf as a process: transactions by RDMP over TLS, SIGKILL in the middle, two real NETCONF servers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from rdmp.decisionlog import MemoryDecisionLog
from rdmp.events import MemoryEventLog
from rdmp.hub import Hub
from rdmp.records import TxProgress, TxRecord
from tests.integration.controller_support import Pki
from tests.integration.netconf_process import Daemon
from tests.integration.netconf_support import NetconfServer, StartServer
from tests.integration.rdmp_support import FAST, Echo
from tests.netconf import samples

pytest_plugins = ["tests.integration.netconf_fixtures"]


class Site:
    """A hub in this process, the daemon, and two switches."""

    def __init__(self, hub: Hub, daemon: Daemon, servers: dict[str, NetconfServer], events: MemoryEventLog) -> None:
        self.hub = hub
        self.daemon = daemon
        self.servers = servers
        self.events = events

    def wish(self, vlans: dict[int, str] = samples.SHOP) -> dict[str, Any]:
        return {
            "device/sw1": samples.nexus(vlans, self.servers["sw1"].access),
            "device/sw2": samples.allied(vlans, self.servers["sw2"].access),
        }

    async def execute(self, tx: str, changes: dict[str, Any], stage: str = "admit") -> TxRecord:
        operation = {"prepare": None, "stages": {stage: {"changes": changes}}}
        record = TxRecord(tx, 0, 0, 0, "preparing", {"netconf": operation}, (stage,), deadline=30.0)
        return await self.hub.execute(record, lambda progress: None)

    async def is_there(self) -> None:
        await self.until(lambda: "netconf" in {peer.name for peer in self.hub.peers()}, "the daemon is connected")

    async def until(self, condition: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, f"not in time: {what}\n{self.daemon.log()}"
            await asyncio.sleep(0.05)

    async def left(self, switch: str) -> list[str]:
        """What a switch lacks of what was decided, as the daemon sees it now."""
        answer = await self.hub.call("netconf", "diff", {"switch": switch}, 20.0)
        return list(answer["changes"])

    async def topics(self) -> list[str]:
        return [event.topic for event in await self.events.read(1, 1000)]


@pytest.fixture
async def site(start_server: StartServer, tmp_path: Path) -> AsyncIterator[Site]:
    pki = Pki(tmp_path / "pki")
    files = pki.issue("orchestrator", "o1")
    events = MemoryEventLog()
    hub = Hub(files.identity(), MemoryDecisionLog(), events, Echo(), 1, "i1", FAST)
    await hub.recover()
    port = await hub.serve_tls("127.0.0.1", 0, files.server_context())
    servers = {"sw1": start_server("nexus9000"), "sw2": start_server("alliedtelesis")}
    daemon = Daemon(tmp_path / "daemon", pki.issue("netconf", "netconf"), port)
    made = Site(hub, daemon, servers, events)
    try:
        await daemon.start()
        await made.is_there()
        yield made
    finally:
        with contextlib.suppress(AssertionError, TimeoutError):
            await daemon.end(signal.SIGKILL)
        await hub.close()


async def test_transactions_configure_switches_and_a_restart_finds_nothing_to_do(site: Site) -> None:
    record = await site.execute("tx-1", site.wish())
    assert record.state == "committed" and record.finished and not record.degraded, record.reason
    assert await site.left("sw1") == [] and await site.left("sw2") == []
    backups = list((site.daemon.folder / "state/backups/sw1").iterdir())
    assert len(backups) == 1 and stat.S_IMODE(backups[0].stat().st_mode) == 0o600
    assert await site.daemon.end(signal.SIGTERM) == 0
    await site.daemon.start()
    await site.is_there()
    observed = await site.hub.call("netconf", "observe", {}, 20.0)
    assert observed["revision"] == 1 and set(observed["switches"]) == {"sw1", "sw2"}
    await asyncio.sleep(1.5)  # at least one look at every switch
    assert "netconf.drift" not in await site.topics()
    record = await site.execute("tx-2", site.wish(samples.WEB), "retire")
    assert record.state == "committed" and record.finished
    assert await site.left("sw1") == []


async def test_a_refusal_reaches_the_coordinator_with_its_reason(site: Site) -> None:
    wish = site.wish()
    wish["device/sw1"]["vlans"]["300"] = "theirs"
    record = await site.execute("tx-1", wish)
    assert record.state == "aborted" and "VLAN 300 is not among the owned VLANs" in str(record.reason)


@pytest.mark.parametrize("again", [1, 2])
async def test_killed_while_a_commit_cannot_end_and_started_again_it_ends_with_all(site: Site, again: int) -> None:
    assert (await site.execute("tx-1", site.wish(samples.WEB))).state == "committed"
    operation = {"prepare": None, "stages": {"admit": {"changes": site.wish()}}}
    record = TxRecord("tx-2", 0, 0, 0, "preparing", {"netconf": operation}, ("admit",), deadline=30.0)

    gone = False

    def watch(progress: TxProgress) -> None:
        nonlocal gone
        if not gone and progress.state == "committed":
            gone = True
            site.servers["sw2"].cut()  # the decision is made, and one switch goes away before it hears of it

    running = asyncio.create_task(site.hub.execute(record, watch))
    await site.until(lambda: running.done() or "sw2" in site.daemon.log(), "the commit meets a switch that is away")
    for _ in range(again):
        await site.daemon.end(signal.SIGKILL)
        await site.daemon.start()
        await site.is_there()
    site.servers["sw2"].start()
    await site.until(running.done, "the transaction ends", 60.0)
    assert (await running).state == "committed"

    async def reached() -> bool:
        with contextlib.suppress(Exception):
            return await site.left("sw1") == [] and await site.left("sw2") == []
        return False

    deadline = asyncio.get_running_loop().time() + 40.0
    while not await reached():
        assert asyncio.get_running_loop().time() < deadline, site.daemon.log()
        await asyncio.sleep(0.2)
    observed = await site.hub.call("netconf", "observe", {}, 20.0)
    assert observed["revision"] == 2 and observed["open"] == []


async def test_what_somebody_changes_by_hand_is_told_and_mended(site: Site) -> None:
    await site.execute("tx-1", site.wish())
    await asyncio.to_thread(
        site.servers["sw1"].seed,
        '<System xmlns="http://cisco.com/ns/yang/cisco-nx-os-device"><bd-items><bd-items><BD-list>'
        "<fabEncap>vlan-120</fabEncap><name>by-hand</name></BD-list></bd-items></bd-items></System>",
    )
    deadline = asyncio.get_running_loop().time() + 30.0
    while "netconf.mended" not in await site.topics():
        assert asyncio.get_running_loop().time() < deadline, site.daemon.log()
        await asyncio.sleep(0.1)
    assert "netconf.drift" in await site.topics()
    assert await site.left("sw1") == []


async def test_a_certificate_of_another_role_does_not_start_it(site: Site, tmp_path: Path) -> None:
    pki = Pki(tmp_path / "other-pki")
    daemon = Daemon(tmp_path / "other", pki.issue("controller", "controller"), 1)
    await daemon.start()
    assert daemon.process is not None
    async with asyncio.timeout(20):
        assert await daemon.process.wait() == 78
    assert "must have the role netconf" in daemon.log()
