# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls to any one member of a group: spread, delivered again when the chosen one dies, within one time limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rdmp.hub import Hub
from rdmp.messages import Call, Message
from rdmp.rpc import RpcError, RpcTimeout
from rdmp.runner import ParticipantRunner
from rdmp.session import Session
from rdmp.tls import Identity
from tests.integration.rdmp_support import Cluster, Pki, Recorder, running, until

Json = Mapping[str, Any]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, Pki(tmp_path / "pki"))


class Member:
    """A participant of the group `meters`; `hold` keeps its answers back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[Json] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.recorder = Recorder(on_call=self._answer)

    async def _answer(self, method: str, params: Json) -> Json:
        self.calls.append(params)
        await self.hold.wait()
        if method == "refuse":
            raise RpcError("not_found", f"{self.name} does not know")
        return {"by": self.name}

    @contextlib.asynccontextmanager
    async def connected(self, cluster: Cluster, port: int) -> AsyncIterator[ParticipantRunner]:
        files = cluster.pki.issue("agent", self.name)
        journal = cluster.folder / f"{self.name}.journal"
        async with running(self.recorder, journal, files, [port], groups=["meters"]) as runner:
            yield runner


async def test_calls_are_spread_over_the_members(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port), contextlib.AsyncExitStack() as stack:
        members = [Member(name) for name in ("h1", "h2", "h3")]
        for member in members:
            await stack.enter_async_context(member.connected(cluster, port))
        await stack.enter_async_context(cluster.participants(port, "h4"))
        answers = await asyncio.gather(*(hub.call_any("meters", "read", {}) for _ in range(30)))
        assert Counter(answer["by"] for answer in answers) == {"h1": 10, "h2": 10, "h3": 10}
        assert {peer.name: peer.groups for peer in hub.peers()}["h1"] == ("meters",)
        with pytest.raises(RpcError, match="does not know"):
            await hub.call_any("meters", "refuse", {})
        assert sum(len(member.calls) for member in members) == 31  # an error is an answer too


async def test_a_member_that_dies_before_its_answer_is_replaced_by_another(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port):
        first, second = Member("h1"), Member("h2")
        first.hold.clear()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(first.connected(cluster, port))
            calling = asyncio.create_task(hub.call_any("meters", "read", {"n": 1}, timeout=20))
            await until(lambda: len(first.calls) == 1)
        async with second.connected(cluster, port):
            assert await calling == {"by": "h2"}
        assert (first.calls, second.calls) == ([{"n": 1}], [{"n": 1}])  # at least once


async def test_attempts_and_time_are_bounded(cluster: Cluster) -> None:
    async with cluster.hub() as (hub, port):
        with pytest.raises(RpcError, match=r"no member of the group meters answered read: no member is connected"):
            await hub.call_any("meters", "read", {})
        member = Member("h1")
        member.hold.clear()
        async with member.connected(cluster, port):
            with pytest.raises(RpcTimeout):
                await hub.call_any("meters", "read", {}, timeout=0.2)
        dying = Member("h1")
        dying.hold.clear()
        calling = asyncio.create_task(hub.call_any("meters", "read", {}, timeout=20, attempts=2))
        for count in (1, 2):
            async with dying.connected(cluster, port):
                await until(lambda count=count: len(dying.calls) == count)  # type: ignore[misc]
        with pytest.raises(RpcError) as caught:
            await calling
        assert caught.value.code == "undelivered" and str(caught.value).count("; h1: ") == 1


async def test_each_attempt_is_told_the_time_that_remains(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: list[float] = []
    send = Session.send

    def watched(session: Session, message: Message) -> None:
        if isinstance(message, Call) and message.deadline is not None:
            deadlines.append(message.deadline)
        send(session, message)

    monkeypatch.setattr(Session, "send", watched)
    async with cluster.hub() as (hub, port):
        first, second = Member("h1"), Member("h2")
        first.hold.clear()
        async with first.connected(cluster, port):
            calling = asyncio.create_task(hub.call_any("meters", "read", {}, timeout=20))
            await until(lambda: len(first.calls) == 1)
        async with second.connected(cluster, port):
            await calling
    assert len(deadlines) == 2 and 0 < deadlines[1] < deadlines[0] <= 20


async def test_the_hub_decides_who_may_be_in_a_group(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def may_join(peer: Identity, group: str) -> bool:
        return peer.name != "h1"

    monkeypatch.setattr(cluster.handler, "may_join", may_join)

    async def groups(hub: Hub) -> dict[str, tuple[str, ...]]:
        return {peer.name: peer.groups for peer in hub.peers()}

    one, other = Member("h1"), Member("h2")
    async with cluster.hub() as (hub, port), one.connected(cluster, port), other.connected(cluster, port):
        assert await groups(hub) == {"h1": (), "h2": ("meters",)}
