# SPDX-License-Identifier: AGPL-3.0-or-later
"""The OpenFlow connection itself, against a small switch of our own over TLS: ends, silence, malformed messages."""

from __future__ import annotations

import asyncio
import gc
import struct
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from os_ken import cfg

from controller.channel import ChannelError
from controller.openflow import datapath, terminator
from controller.openflow.channel import OpenFlowChannel
from controller.openflow.terminator import Terminator
from tests.integration.controller_support import Pki

HELLO, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 2, 3, 5, 6
MULTIPART_REQUEST, MULTIPART_REPLY, BARRIER_REQUEST, BARRIER_REPLY = 18, 19, 20, 21


class TinySwitch:
    """Speaks as much OpenFlow 1.3 as the handshake needs; ``mute`` are message types that it does not answer."""

    def __init__(self, datapath_id: int) -> None:
        self.datapath_id = datapath_id
        self.mute: set[int] = set()
        self.statistics = b""  # the body of an answer to a multipart request
        self.seen: list[int] = []

    async def connect(self, pki: Pki, port: int, name: str = "sw1") -> None:
        context = pki.issue("switch", name).client_context()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        self.send(HELLO, 1)
        self.task = asyncio.create_task(self._run())

    def send(self, kind: int, xid: int, body: bytes = b"") -> None:
        self.writer.write(struct.pack("!BBHI", 4, kind, 8 + len(body), xid) + body)

    async def _run(self) -> None:
        try:
            while True:
                _, kind, length, xid = struct.unpack("!BBHI", await self.reader.readexactly(8))
                body = await self.reader.readexactly(length - 8)
                self.seen.append(kind)
                if kind not in self.mute:
                    self._answer(kind, xid, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.writer.close()

    def _answer(self, kind: int, xid: int, body: bytes) -> None:
        if kind == FEATURES_REQUEST:
            self.send(FEATURES_REPLY, xid, struct.pack("!QIBB2xII", self.datapath_id, 256, 254, 0, 0x47, 0))
        elif kind == ECHO_REQUEST:
            self.send(ECHO_REPLY, xid, body)
        elif kind == MULTIPART_REQUEST:
            self.send(MULTIPART_REPLY, xid, body[:2] + struct.pack("!H4x", 0) + self.statistics)
        elif kind == BARRIER_REQUEST:
            self.send(BARRIER_REPLY, xid)

    async def leave(self) -> None:
        self.writer.close()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Gate:
    """A terminator that collects what connects."""

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.channels: asyncio.Queue[tuple[str, OpenFlowChannel]] = asyncio.Queue()
        self.refused: list[str] = []
        context = pki.issue("controller", "controller").server_context()
        self.terminator = Terminator("lab", context, self._connected, lambda _, reason: self.refused.append(reason))
        self.port = 0

    async def _connected(self, name: str, channel: OpenFlowChannel) -> None:
        await self.channels.put((name, channel))

    async def accept(self, switch: TinySwitch) -> OpenFlowChannel:
        await switch.connect(self.pki, self.port)
        async with asyncio.timeout(10):
            return (await self.channels.get())[1]


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    made = Gate(Pki(tmp_path / "pki"))
    made.port = await made.terminator.start("127.0.0.1", 0)
    try:
        yield made
    finally:
        await made.terminator.stop()


def openflow_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("openflow")]


async def no_threads() -> None:
    async with asyncio.timeout(20):
        while openflow_threads():
            await asyncio.sleep(0.05)


@pytest.fixture
def quick_echo() -> Iterator[None]:
    datapath.configure()
    cfg.CONF.set_override("echo_request_interval", 0.1)
    yield
    cfg.CONF.set_override("echo_request_interval", datapath.ECHO_SECONDS)


async def test_a_hundred_switches_are_served_at_once(gate: Gate) -> None:
    switches = [TinySwitch(number) for number in range(1, 101)]
    channels = [await gate.accept(switch) for switch in switches]
    assert [channel.datapath_id for channel in channels] == list(range(1, 101))
    assert gate.refused == []
    await asyncio.gather(*(switch.leave() for switch in switches))


async def test_one_connection_too_many_is_refused_with_the_reason(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminator, "MAX_CONNECTIONS", 1)
    first, second = TinySwitch(1), TinySwitch(2)
    await gate.accept(first)
    await second.connect(gate.pki, gate.port)
    async with asyncio.timeout(5):
        while not gate.refused:
            await asyncio.sleep(0.01)
    assert gate.refused == ["there are already 1 connections"]
    await asyncio.gather(first.leave(), second.leave())


async def test_switches_that_come_and_go_leave_nothing_behind(gate: Gate, quick_echo: None) -> None:
    for _ in range(10):
        switch = TinySwitch(7)
        channel = await gate.accept(switch)
        assert channel.datapath_id == 7
        assert (await channel.read_flows()).entries == ()
        await switch.leave()
        async with asyncio.timeout(5):
            assert await channel.closed()
        with pytest.raises(ChannelError):
            await channel.read_flows()
    await no_threads()


async def test_the_end_of_a_connection_leaves_no_circle_of_objects(gate: Gate) -> None:
    """The garbage collector looks rarely in the controller: what it had to find would pile up."""
    gc.collect()
    gc.disable()
    try:
        switch = TinySwitch(7)
        channel = await gate.accept(switch)
        alive = weakref.ref(channel)
        del channel
        await switch.leave()
        async with asyncio.timeout(10):
            while alive() is not None:
                await asyncio.sleep(0.05)
    finally:
        gc.enable()


async def test_a_silent_switch_is_given_up(gate: Gate, quick_echo: None) -> None:
    switch = TinySwitch(7)
    channel = await gate.accept(switch)
    switch.mute = {ECHO_REQUEST, MULTIPART_REQUEST}
    waiting = asyncio.create_task(channel.read_groups())
    async with asyncio.timeout(5):
        assert await channel.closed()
    with pytest.raises(ChannelError):
        await waiting
    await switch.leave()
    await no_threads()


async def test_any_message_is_a_sign_of_life(gate: Gate, quick_echo: None) -> None:
    switch = TinySwitch(7)
    channel = await gate.accept(switch)
    switch.mute = {ECHO_REQUEST}
    for _ in range(15):
        await channel.read_groups()
        await asyncio.sleep(0.1)
    assert switch.seen.count(ECHO_REQUEST) > 5
    await switch.leave()


async def test_an_answer_that_does_not_come_is_not_waited_for(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.openflow.channel.READ_SECONDS", 0.3)
    switch = TinySwitch(7)
    channel = await gate.accept(switch)
    switch.mute = {MULTIPART_REQUEST}
    with pytest.raises(ChannelError, match=r"no answer within 0\.3 s to OFPFlowStatsRequest"):
        await channel.read_flows()
    switch.mute = set()
    assert (await channel.read_flows()).entries == (), "the connection goes on"
    await switch.leave()


async def test_a_switch_that_never_finishes_its_handshake_is_cut(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.openflow.channel.HANDSHAKE_SECONDS", 0.3)
    switch = TinySwitch(7)
    switch.mute = {FEATURES_REQUEST}
    await switch.connect(gate.pki, gate.port)
    async with asyncio.timeout(5):
        await asyncio.gather(switch.task, return_exceptions=True)
    assert gate.channels.empty()


async def test_a_malformed_message_ends_at_most_its_own_connection(gate: Gate) -> None:
    good, bad = TinySwitch(7), TinySwitch(8)
    channel = await gate.accept(good)
    await gate.accept(bad)
    bad.writer.write(struct.pack("!BBHI", 4, MULTIPART_REPLY, 20, 9) + b"\xff" * 12)
    bad.writer.write(b"\x99" * 64)
    await asyncio.sleep(0.3)
    assert (await channel.read_flows()).entries == ()
    await good.leave()
    await bad.leave()


async def test_a_malformed_answer_is_refused_at_once_and_with_its_place(gate: Gate) -> None:
    switch = TinySwitch(7)
    channel = await gate.accept(switch)
    switch.statistics = struct.pack("!HB", 0, 1) + bytes(61)
    for reading, what in (
        (channel.read_flows, "flow statistics"),
        (channel.read_groups, "group description"),
        (channel.read_meters, "meter configuration"),
    ):
        async with asyncio.timeout(5):
            with pytest.raises(ChannelError, match=f"malformed answer: {what} at octet 0 of 64 has the length 0"):
                await reading()
    switch.statistics = b""
    assert (await channel.read_flows()).entries == (), "the connection goes on"
    await switch.leave()


async def test_only_switches_of_our_cluster_come_in(gate: Gate, tmp_path: Path) -> None:
    context = gate.pki.issue("agent", "h1").client_context()
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, ssl=context)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    assert gate.refused == [
        "the certificate is of odyssey://lab/agent/h1; a switch needs one of odyssey://lab/switch/NAME"
    ]
