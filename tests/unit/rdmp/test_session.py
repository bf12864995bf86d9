# SPDX-License-Identifier: AGPL-3.0-or-later
"""One session over a transport that only remembers: lanes, limits, life."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from rdmp.frames import Decoder, encode
from rdmp.limits import Limits
from rdmp.messages import Error, Inquire, Message, Ping, Pong
from rdmp.rpc import ProgressSender, RpcError
from rdmp.session import Origin, Session, SessionOwner

LIMIT = 1 << 20


class Memory(asyncio.Transport):
    """A transport without a network."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()
        self.writes = 0
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        self.data += data

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def take(self) -> list[dict[str, Any]]:
        """Return what was sent since the last time."""
        messages = list(Decoder(LIMIT).feed(bytes(self.data)))
        self.data.clear()
        return messages


class Owner(SessionOwner):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.reasons: list[str] = []

    def session_opened(self, session: Session) -> None:
        pass

    def session_message(self, session: Session, message: Message) -> None:
        self.messages.append(message)

    def session_closed(self, session: Session, reason: str) -> None:
        self.reasons.append(reason)

    async def session_call(
        self, session: Session, method: str, params: Mapping[str, Any], progress: ProgressSender
    ) -> Mapping[str, Any]:
        return params


def connected(limits: Limits | None = None) -> tuple[Session, Memory, Owner]:
    owner, transport = Owner(), Memory()
    session = Session(owner, limits or Limits(), Origin("tls", "test"))
    session.connection_made(transport)
    session.establish(60.0)
    return session, transport, owner


def alive(session: Session) -> bool:
    return not session.closing


async def test_heartbeats_pass_a_long_queue() -> None:
    session, transport, _ = connected()
    session.pause_writing()
    for number in range(100):
        session.send(Inquire(f"t.{number}"))
    session.data_received(encode(Ping(7).to_json(), LIMIT))
    assert session.queued == 100 and not transport.data
    session.resume_writing()
    sent = transport.take()
    assert sent[0] == {"type": "pong", "n": 7}
    assert [message["tx"] for message in sent[1:]] == [f"t.{number}" for number in range(100)]
    assert session.queued == 0


async def test_what_is_sent_in_one_turn_of_the_loop_leaves_in_one_write() -> None:
    session, transport, _ = connected()
    for number in range(5):
        session.send(Inquire(f"t{number}"))
    assert not transport.data
    await asyncio.sleep(0)
    assert transport.writes == 1
    assert [message["tx"] for message in transport.take()] == [f"t{number}" for number in range(5)]


async def test_a_large_queue_leaves_in_parts_that_heartbeats_can_pass() -> None:
    session, transport, _ = connected()
    session.pause_writing()
    for number in range(40):
        session.send(Inquire(f"t{number}-" + "x" * 100))
        session.send(Error("e", "y" * 4000))
    session.resume_writing()
    assert transport.writes > 2
    assert len(transport.take()) == 80


async def test_a_full_queue_ends_the_connection_with_a_reason() -> None:
    session, transport, owner = connected(Limits(send_queue_messages=3))
    session.pause_writing()
    for number in range(4):
        session.send(Inquire(f"t.{number}"))
    assert not alive(session) and transport.ended
    (error,) = transport.take()
    assert error["code"] == "overloaded" and "3 messages" in error["message"]
    session.connection_lost(None)
    assert owner.reasons[0].startswith("overloaded")
    session.send(Inquire("t.9"))
    assert not transport.data


async def test_the_queue_is_also_bounded_in_bytes() -> None:
    session, transport, _ = connected(Limits(send_queue_bytes=500))
    session.pause_writing()
    session.send(Inquire("a" * 100))
    assert alive(session)
    for _ in range(10):
        session.send(Inquire("a" * 100))
    assert not alive(session) and transport.ended


async def test_silence_is_counted_in_beats() -> None:
    session, transport, _ = connected(Limits(heartbeat_misses=2))
    session._beat(60.0, 1)
    session._beat(60.0, 2)
    session.data_received(encode(Inquire("t.1").to_json(), LIMIT))
    session._beat(60.0, 3)
    session._beat(60.0, 4)
    assert alive(session)
    session._beat(60.0, 5)
    assert not alive(session)
    assert [message["n"] for message in transport.take()] == [1, 2, 3, 4]


async def test_messages_in_one_chunk_arrive_in_order() -> None:
    session, _, owner = connected()
    session.data_received(b"".join(encode(Inquire(f"t.{n}").to_json(), LIMIT) for n in range(5)))
    assert [message.to_json()["tx"] for message in owner.messages] == [f"t.{n}" for n in range(5)]


async def test_a_session_that_was_given_up_before_it_stood_is_cut() -> None:
    transport = Memory()
    session = Session(Owner(), Limits(), Origin("tls", "test"))
    session.close("given up")
    session.connection_made(transport)
    assert transport.ended


async def test_an_invalid_reply_ends_its_call_at_once_and_the_peer_is_told() -> None:
    session, transport, _ = connected()
    waiting = asyncio.create_task(session.call("observe", {}, 60.0))
    other = asyncio.create_task(session.call("observe", {}, 60.0))
    for _ in range(5):
        await asyncio.sleep(0)
    first, second = (message["id"] for message in transport.take())
    session.data_received(encode({"type": "reply", "id": first, "error": {"code": 7, "message": "no"}}, LIMIT))
    with pytest.raises(RpcError, match=r"its reply is not an RDMP message: .*\$\.error\.code") as caught:
        await waiting
    assert caught.value.code == "bad_message" and caught.value.faults
    (error,) = transport.take()
    assert (error["type"], error["code"], error["ref"]) == ("error", "bad_message", first)
    session.data_received(encode({"type": "reply", "id": second, "result": {"ok": True}}, LIMIT))
    assert await other == {"ok": True} and alive(session)


async def test_an_invalid_reply_to_nobody_harms_nobody() -> None:
    session, transport, _ = connected()
    for number in ("1", 5, None, ["1"]):
        session.data_received(encode({"type": "reply", "id": number, "result": 1}, LIMIT))
    assert [message["code"] for message in transport.take()] == ["bad_message"] * 4
    assert alive(session)


@pytest.mark.parametrize("limit", [100.0, None])
async def test_only_whoever_was_dialled_looks_at_the_rate(limit: float | None) -> None:
    owner, transport = Owner(), Memory()
    session = Session(owner, Limits(), Origin("tls", "test"))
    session.connection_made(transport)
    if limit is None:
        session.establish(0.1)
    else:
        session.establish(0.1, None, limit)
    session.data_received(b"".join(encode(Pong(number).to_json(), LIMIT) for number in range(10_000)))
    await asyncio.sleep(0.15)
    assert alive(session) is (limit is None)
    errors = [message["code"] for message in transport.take() if message["type"] == "error"]
    assert errors == ([] if limit is None else ["rate_exceeded"])


async def test_a_progress_callback_that_raises_ends_its_call_alone() -> None:
    session, transport, _ = connected()

    def boom(data: Mapping[str, Any]) -> None:
        raise BrokenPipeError("stdout")

    waiting = asyncio.create_task(session.call("observe", {}, 60.0, boom))
    other = asyncio.create_task(session.call("observe", {}, 60.0))
    for _ in range(5):
        await asyncio.sleep(0)
    first, second = (message["id"] for message in transport.take())
    progress = encode({"type": "progress", "id": first, "data": {}}, LIMIT)
    session.data_received(progress + progress + encode({"type": "reply", "id": second, "result": {"ok": True}}, LIMIT))
    with pytest.raises(BrokenPipeError, match="stdout"):
        await waiting
    assert await other == {"ok": True} and alive(session)
    await asyncio.sleep(0)
    assert transport.take() == [{"type": "cancel", "id": first}]


async def test_only_its_own_limit_makes_a_call_one_that_took_too_long(caplog: pytest.LogCaptureFixture) -> None:
    session, transport, owner = connected()

    async def answer(session: Session, method: str, params: Any, progress: Any) -> Mapping[str, Any]:
        if method == "slow":
            await asyncio.sleep(60)
        raise TimeoutError("the engine does not answer")

    owner.session_call = answer  # type: ignore[method-assign]
    session.data_received(encode({"type": "call", "id": "1", "method": "inner"}, LIMIT))
    session.data_received(encode({"type": "call", "id": "2", "method": "slow", "deadline": 0.02}, LIMIT))
    await asyncio.sleep(0.1)
    inner, slow = (message["error"] for message in transport.take())
    assert (inner["code"], slow["code"]) == ("internal", "timeout")
    assert "the engine does not answer" in inner["message"] and "took longer than 0.02 s" in slow["message"]
    assert caplog.messages == ["test: call inner failed"]


async def test_a_ping_that_is_one_too_many_leaves_the_timer_that_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rdmp.session._CLOSE_SECONDS", 0.02)
    session, transport, _ = connected(Limits(send_queue_messages=3, heartbeat_misses=9))
    session.pause_writing()
    for _ in range(4):
        session._beat(60.0, 1)
    assert session.closing
    transport.ended = False  # its close waits for a peer that does not read
    await asyncio.sleep(0.1)
    assert transport.ended
