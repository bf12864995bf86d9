# SPDX-License-Identifier: AGPL-3.0-or-later
"""The shell of a participant, its sessions replaced by ones that only remember."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, cast

from rdmp.limits import Limits
from rdmp.messages import Message, Welcome
from rdmp.rpc import PeerAbsent
from rdmp.runner import ParticipantRunner
from rdmp.session import Session
from rdmp.tls import Identity
from tests.integration.rdmp_support import Recorder

LIMITS = Limits(reconnect_min=0.01, reconnect_max=0.05)


class Deaf:
    """A session that ends every request at once; it gives up when it is asked without end."""

    label = "deaf"

    def __init__(self, closing: bool) -> None:
        self.closing = closing
        self.requests = 0

    async def request(self, make: Callable[[str], Message], timeout: float) -> Mapping[str, Any]:
        self.requests += 1
        if self.requests > 1000:
            raise AssertionError("the event loop never runs again")
        raise PeerAbsent("peer_absent", "closed by us")


class Hearing(Deaf):
    """A session that takes what is published."""

    async def request(self, make: Callable[[str], Message], timeout: float) -> Mapping[str, Any]:
        self.requests += 1
        return {"index": 1}


def welcome(name: str, epoch: int) -> Welcome:
    return Welcome(1, name, "test", epoch, "i1", 60.0)


@contextlib.asynccontextmanager
async def publishing(tmp_path: Path) -> AsyncIterator[ParticipantRunner]:
    runner = ParticipantRunner(Recorder(), tmp_path / "journal", Identity("test", "agent", "h1"), (), None, LIMITS)
    task = asyncio.create_task(runner._publish_events())
    yield runner
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_event_waits_while_the_only_connection_is_closing(tmp_path: Path) -> None:
    async with publishing(tmp_path) as runner:
        session, later = Deaf(closing=True), Hearing(closing=False)
        runner.welcomed(cast(Session, session), welcome("o1", 1))
        await runner.publish("node.died", {"node": "n"})
        await asyncio.sleep(0.05)
        assert session.requests == 0
        runner.welcomed(cast(Session, later), welcome("o1", 1))
        await asyncio.sleep(0.05)
        assert later.requests == 1


async def test_an_event_goes_to_another_orchestrator_while_the_leading_one_is_closing(tmp_path: Path) -> None:
    async with publishing(tmp_path) as runner:
        session, other = Deaf(closing=True), Hearing(closing=False)
        runner.welcomed(cast(Session, session), welcome("o2", 2))
        runner.welcomed(cast(Session, other), welcome("o1", 1))
        await runner.publish("node.died", {"node": "n"})
        await asyncio.sleep(0.05)
        assert (session.requests, other.requests) == (0, 1)


async def test_a_request_that_fails_at_once_leaves_the_loop_to_others(tmp_path: Path) -> None:
    async with publishing(tmp_path) as runner:
        session = Deaf(closing=False)
        runner.welcomed(cast(Session, session), welcome("o1", 1))
        await runner.publish("node.died", {"node": "n"})
        await asyncio.sleep(0.1)
        assert 1 <= session.requests <= 20
