# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests to one switch and their answers, over os-ken's Datapath.

os-ken runs in threads, we in the event loop.  Its threads hand every message over with ``call_soon_threadsafe``; what
we send is serialised and queued by one thread of this channel, because os-ken's queue blocks when a switch is slow.
Every wait is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from os_ken.ofproto import ofproto_v1_3, ofproto_v1_3_parser

from controller import texts
from controller.changes import Change, MeterChange
from controller.channel import (
    Channel,
    ChannelError,
    FlowReading,
    GroupReading,
    MeterReading,
    NotMasterError,
    Role,
    StaleGenerationError,
)
from controller.device import Device
from controller.openflow import batched, device, ports, replies, wire
from controller.openflow.datapath import DEAD, MAIN, PairSocket, RepairedDatapath
from controller.openflow.oxm import Malformed
from controller.ports import PortChange, PortCounters, PortState

_P, _O = ofproto_v1_3_parser, ofproto_v1_3
_log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # to the answer of a small request
SECONDS_PER_ENTRY = 0.002  # more for each entry that is sent or read
READ_SECONDS = 60.0  # to read a whole switch
HANDSHAKE_SECONDS = 10.0
MAX_PARTS = 4096  # of one answer, of at most 64 KiB each
FIRST_XID = 0x80000000  # os-ken's own messages count up from 0
_WANTED = (
    _P.OFPSwitchFeatures,
    _P.OFPBarrierReply,
    _P.OFPFlowStatsReply,
    _P.OFPGroupDescStatsReply,
    _P.OFPMeterConfigStatsReply,
    _P.OFPErrorMsg,
    _P.OFPRoleReply,
    _P.ONFBundleCtrlMsg,
    *ports.ANSWERS,
    *device.ANSWERS,
    ports.CHANGE,
    _P.OFPPacketIn,
)
_ROLES = {Role.MASTER: _O.OFPCR_ROLE_MASTER, Role.SLAVE: _O.OFPCR_ROLE_SLAVE}


@dataclass(slots=True)
class _Request:
    """Something that waits for an answer; ``parts`` are the answers of a multipart request so far."""

    future: asyncio.Future[list[Any]]
    parts: list[Any] = field(default_factory=list)


class OpenFlowChannel(Channel):
    """A switch over os-ken; make it with ``open``."""

    def __init__(self, sock: PairSocket, label: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._label = label
        self._datapath_id: int | None = None
        self._role: Role | None = None
        self._next_xid = FIRST_XID
        self._bundles = itertools.count(1)
        self._requests: dict[int, _Request] = {}
        self._refusals: dict[int, Any] = {}  # errors that answer a message of ours, by xid
        self._port_listener: Callable[[PortChange], None] = lambda change: None
        self._on_packet: Callable[[int, bytes], None] | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._end: asyncio.Future[str] = self._loop.create_future()
        self._sender = ThreadPoolExecutor(1, thread_name_prefix=f"openflow {label}")
        self._datapath = RepairedDatapath(sock, label, self._from_thread, self._state_from_thread)
        self._thread = threading.Thread(target=self._serve, name=f"openflow {label}", daemon=True)

    @classmethod
    async def open(cls, sock: PairSocket, label: str) -> OpenFlowChannel:
        """Shake hands with the switch at the other end of ``sock``; raises ChannelError."""
        channel = cls(sock, label)
        channel._thread.start()
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await channel._ready
        except TimeoutError:
            channel.close(f"no OpenFlow handshake within {HANDSHAKE_SECONDS:g} s")
            raise ChannelError(f"{label}: no OpenFlow handshake within {HANDSHAKE_SECONDS:g} s") from None
        return channel

    @property
    def datapath_id(self) -> int:
        assert self._datapath_id is not None
        return self._datapath_id

    @property
    def address(self) -> str:
        return self._label

    def close(self, reason: str) -> None:
        self._ended(reason)
        self._datapath.close()

    async def closed(self) -> str:
        return await asyncio.shield(self._end)

    # Threads of os-ken

    def _serve(self) -> None:
        reason = "the switch closed the connection"
        try:
            self._datapath.serve()
        except Exception as error:  # os-ken's parsers raise anything on a malformed message
            _log.exception("%s: the OpenFlow connection failed", self._label)
            reason = f"{type(error).__name__}: {error}"
        finally:
            self._call(self._ended, reason)

    def _from_thread(self, message: Any) -> None:
        if not isinstance(message, _WANTED):
            return
        try:
            if isinstance(message, _P.OFPFlowStatsReply):
                message.body = replies.flows(message.body)
            elif isinstance(message, _P.OFPGroupDescStatsReply):
                message.body = replies.groups(message.body)
            elif isinstance(message, _P.OFPMeterConfigStatsReply):
                message.body = replies.meters(message.body)
        except Malformed as fault:
            message.body = fault
        self._call(self._received, message)

    def _state_from_thread(self, state: str) -> None:
        if state == MAIN:
            self._call(self._is_ready)
        elif state == DEAD:
            self._call(self._ended, "the switch does not answer or closed the connection")

    def _call(self, function: Any, *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is interested any more
            self._loop.call_soon_threadsafe(function, *args)

    # Event loop

    def _is_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def _ended(self, reason: str) -> None:
        if self._end.done():
            return
        self._end.set_result(reason)
        gone = ChannelError(f"{self._label}: {reason}")
        for request in self._requests.values():
            if not request.future.done():
                request.future.set_exception(gone)
        if not self._ready.done():
            self._ready.set_exception(gone)
            self._ready.exception()  # open() raises it, unless it has given up already
        self._sender.shutdown(wait=False)

    def _received(self, message: Any) -> None:
        if isinstance(message, _P.OFPSwitchFeatures):
            self._datapath_id = message.datapath_id
        if isinstance(message, _P.OFPErrorMsg):
            self._refused(message)
        elif isinstance(message, ports.CHANGE):
            if (change := ports.change(message)) is not None:
                self._port_listener(change)
        elif isinstance(message, _P.OFPPacketIn):
            if self._on_packet is not None:
                self._on_packet(message.match["in_port"], bytes(message.data))
        elif (request := self._requests.get(message.xid)) is not None and not request.future.done():
            request.parts.append(message)
            if isinstance(getattr(message, "body", None), Malformed):
                request.future.set_exception(ChannelError(f"{self._label}: malformed answer: {message.body}"))
            elif len(request.parts) > MAX_PARTS:
                request.future.set_exception(ChannelError(f"{self._label}: an answer of more than {MAX_PARTS} parts"))
            elif not getattr(message, "flags", 0) & _O.OFPMPF_REPLY_MORE or isinstance(message, _P.ONFBundleCtrlMsg):
                request.future.set_result(request.parts)

    def _refused(self, message: Any) -> None:
        request = self._requests.get(message.xid)
        if request is not None and not request.future.done():
            request.future.set_exception(self._failure(message, f"{self._label}: {_error_text(message)}"))
        elif message.xid >= FIRST_XID:
            self._refusals[message.xid] = message
        else:
            _log.warning("%s", self._failure(message, f"{self._label}: {_error_text(message)}"))

    def _new_xids(self, count: int) -> range:
        """Return transaction ids that follow one another."""
        if self._next_xid + count > _O.MAX_XID:
            self._next_xid = FIRST_XID
        first = self._next_xid
        self._next_xid += count
        return range(first, self._next_xid)

    async def _transmit(self, pieces: Iterable[bytes], questions: Sequence[Any]) -> None:
        """Give bytes, then questions that have their xid, to os-ken in order; the bytes are made in our thread."""

        def work() -> bool:
            return all(map(self._datapath.send, pieces)) and self._datapath.send(_serialized(questions))

        if self._end.done():
            raise ChannelError(f"{self._label}: {self._end.result()}")
        if not await self._loop.run_in_executor(self._sender, work):
            raise ChannelError(f"{self._label}: the connection ended")

    async def _ask(self, questions: Sequence[Any], seconds: float, before: Iterable[bytes] = ()) -> list[list[Any]]:
        """Send what has no answer, then questions; wait for the answer to each question."""
        asked = {}
        for question, xid in zip(questions, self._new_xids(len(questions)), strict=True):
            question.set_xid(xid)
            asked[xid] = self._requests[xid] = _Request(self._loop.create_future())
        futures = [request.future for request in asked.values()]
        try:
            async with asyncio.timeout(seconds):
                await self._transmit(before, questions)
                return [await future for future in futures]
        except TimeoutError:
            names = ", ".join(type(question).__name__ for question in questions)
            raise ChannelError(f"{self._label}: no answer within {seconds:g} s to {names}") from None
        finally:
            for xid in asked:
                self._requests.pop(xid, None)
            for future in futures:
                if future.done() and not future.cancelled():
                    future.exception()  # the first is raised above, nobody waits for the others

    def _failure(self, message: Any, text: str) -> ChannelError:
        """Return what to raise for an OFPErrorMsg."""
        match message.type, message.code:
            case _O.OFPET_BAD_REQUEST, _O.OFPBRC_IS_SLAVE:
                self._role = None
                return NotMasterError(text)
            case _O.OFPET_ROLE_REQUEST_FAILED, _O.OFPRRFC_STALE:
                return StaleGenerationError(text)
        return ChannelError(text)

    def _require_master(self) -> None:
        """To be called before whatever changes the switch or sends packets through it."""
        if self._role is not Role.MASTER:
            raise NotMasterError(f"{self._label}: nothing is written without the role master")

    async def take_role(self, role: Role, generation: int) -> None:
        try:
            [[reply]] = await self._ask([_P.OFPRoleRequest(self._datapath, _ROLES[role], generation)], ANSWER_SECONDS)
        except StaleGenerationError as stale:
            self._role = None
            question = _P.OFPRoleRequest(self._datapath, _O.OFPCR_ROLE_NOCHANGE, 0)
            [[reply]] = await self._ask([question], ANSWER_SECONDS)
            raise StaleGenerationError(str(stale), reply.generation_id) from None
        if reply.role != _ROLES[role]:
            raise ChannelError(f"{self._label}: the role {role} was asked for, and {reply.role} granted")
        self._role = role

    async def set_ports(self, numbers: Sequence[int], *, up: bool) -> int:
        [parts] = await self._ask([_P.OFPPortDescStatsRequest(self._datapath, 0)], ANSWER_SECONDS)
        found = {port.port_no: port for part in parts for port in part.body}
        config = 0 if up else _O.OFPPC_PORT_DOWN
        there = (found[number] for number in numbers if number in found)
        wrong = [port for port in there if port.config & _O.OFPPC_PORT_DOWN != config]
        if wrong:
            self._require_master()
            mods = [
                _P.OFPPortMod(self._datapath, port.port_no, port.hw_addr, config, _O.OFPPC_PORT_DOWN, 0)
                for port in wrong
            ]
            sent = self._new_xids(len(mods))
            for mod, xid in zip(mods, sent, strict=True):
                mod.set_xid(xid)
            self._refusals.clear()
            await self._ask([_P.OFPBarrierRequest(self._datapath)], ANSWER_SECONDS, [_serialized(mods)])
            if refused := [self._refusals[xid] for xid in sent if xid in self._refusals]:
                raise self._failure(refused[0], f"{self._label}: ports cannot be set: {_error_text(refused[0])}")
        return len(wrong)

    def on_packet(self, listener: Callable[[int, bytes], None]) -> None:
        self._on_packet = listener

    async def send_packets(self, packets: Sequence[tuple[int, bytes]]) -> None:
        self._require_master()
        await self._transmit((), [self._packet_out(port, frame) for port, frame in packets])

    def _packet_out(self, port: int, frame: bytes) -> Any:
        actions = [_P.OFPActionOutput(port, 0)]
        return _P.OFPPacketOut(self._datapath, _O.OFP_NO_BUFFER, _O.OFPP_CONTROLLER, actions, data=frame)

    async def apply(self, changes: Sequence[Change]) -> None:
        self._require_master()
        if self.delivery is not None:
            await batched.apply(self, changes, self.delivery)
            return
        meters = [change for change in changes if isinstance(change, MeterChange)]
        await self.send([change for change in meters if change.op != "-"])
        await self._apply_bundle([change for change in changes if not isinstance(change, MeterChange)])
        await self.send([change for change in meters if change.op == "-"])

    async def send(self, changes: Sequence[Change]) -> None:
        """Send changes one by one, then a barrier; raises ChannelError if one was refused, and the others are made."""
        if not changes:
            return
        sent = self._new_xids(len(changes))
        self._refusals.clear()
        seconds = ANSWER_SECONDS + SECONDS_PER_ENTRY * len(changes)
        await self._ask([_P.OFPBarrierRequest(self._datapath)], seconds, [wire.messages(changes, sent.start)])
        self._raise_refusals(sent, changes)

    async def _apply_bundle(self, changes: Sequence[Change]) -> None:
        if not changes:
            return
        bundle = next(self._bundles)
        seconds = ANSWER_SECONDS + SECONDS_PER_ENTRY * len(changes)
        opens = self._bundle(bundle, _O.ONF_BCT_OPEN_REQUEST)
        [opens.xid] = self._new_xids(1)
        sent = self._new_xids(len(changes))
        pieces = itertools.chain([_serialized([opens])], wire.bundle_additions(changes, bundle, sent.start))
        self._refusals.clear()
        # A message that cannot be added is refused alone, and a commit would make the others: ask for refusals first.
        try:
            await self._ask([_P.OFPBarrierRequest(self._datapath)], seconds, pieces)
            self._raise_refusals(sent, changes)
        except ChannelError:
            with contextlib.suppress(ChannelError):
                await self._ask([self._bundle(bundle, _O.ONF_BCT_DISCARD_REQUEST)], ANSWER_SECONDS)
            raise
        try:
            commits = self._bundle(bundle, _O.ONF_BCT_COMMIT_REQUEST)
            await self._ask([commits, _P.OFPBarrierRequest(self._datapath)], seconds)
        except ChannelError:
            self._raise_refusals(sent, changes)
            raise

    def _bundle(self, number: int, step: int) -> Any:
        return _P.ONFBundleCtrlMsg(self._datapath, number, step, wire.BUNDLE_FLAGS, [])

    def _raise_refusals(self, sent: range, changes: Sequence[Change]) -> None:
        refused, self._refusals = self._refusals, {}
        for xid, message in refused.items():
            what = _change_text(changes[sent.index(xid)]) if xid in sent else "the bundle"
            count = f"{len(refused)} of {len(sent)} changes refused"
            raise self._failure(message, f"{self._label}: {count}; the first: {_error_text(message)}: {what}")

    async def read_flows(self, cookie: int = 0, mask: int = 0) -> FlowReading:
        request = _P.OFPFlowStatsRequest(
            self._datapath, 0, _O.OFPTT_ALL, _O.OFPP_ANY, _O.OFPG_ANY, cookie, mask, _P.OFPMatch()
        )
        [parts] = await self._ask([request], READ_SECONDS)
        entries = itertools.chain.from_iterable(part.body.entries for part in parts)
        foreign, learned = (sum(getattr(part.body, name) for part in parts) for name in ("foreign", "learned"))
        return FlowReading(tuple(entries), foreign, learned)

    async def read_groups(self) -> GroupReading:
        if self.delivery is not None and not self.delivery.groups:
            return GroupReading((), 0)
        [parts] = await self._ask([_P.OFPGroupDescStatsRequest(self._datapath, 0)], READ_SECONDS)
        groups = itertools.chain.from_iterable(part.body.groups for part in parts)
        return GroupReading(tuple(groups), sum(part.body.foreign for part in parts))

    async def read_meters(self) -> MeterReading:
        if self.delivery is not None and not self.delivery.groups:
            return MeterReading(())
        [parts] = await self._ask([_P.OFPMeterConfigStatsRequest(self._datapath, 0)], READ_SECONDS)
        return MeterReading(tuple(itertools.chain.from_iterable(part.body.meters for part in parts)))

    async def read_ports(self) -> tuple[PortState, ...]:
        [parts] = await self._ask([ports.describe_request(self._datapath)], ANSWER_SECONDS)
        return ports.states(parts)

    async def read_port_counters(self) -> tuple[PortCounters, ...]:
        [parts] = await self._ask([ports.counters_request(self._datapath)], ANSWER_SECONDS)
        return ports.counters(parts)

    def device(self) -> Device:
        return device.OpenFlowDevice(self)

    @property
    def datapath(self) -> RepairedDatapath:
        """The connection for which messages are made."""
        return self._datapath

    @property
    def is_open(self) -> bool:
        """Tell whether the connection stands."""
        return not self._end.done()

    async def ask(self, question: Any) -> list[Any]:
        """Send a message of os-ken and return its answer, in parts; raises ChannelError."""
        [parts] = await self._ask([question], ANSWER_SECONDS)
        return parts

    async def tell(self, messages: Sequence[Any]) -> None:
        """Send messages of os-ken that have no answer, then a barrier; raises ChannelError, also if one is refused."""
        sent = self._new_xids(len(messages))
        for message, xid in zip(messages, sent, strict=True):
            message.set_xid(xid)
        self._refusals.clear()
        await self._ask([_P.OFPBarrierRequest(self._datapath)], ANSWER_SECONDS, [_serialized(messages)])
        for refusal in self._taken_refusals(sent).values():
            raise ChannelError(f"{self._label}: {refusal}")

    async def attempt(self, changes: Sequence[Change]) -> dict[int, str]:
        """Send changes outside of a bundle, then a barrier; returns what was refused, by number."""
        sent = self._new_xids(len(changes))
        seconds = ANSWER_SECONDS + SECONDS_PER_ENTRY * len(changes)
        self._refusals.clear()
        await self._ask([_P.OFPBarrierRequest(self._datapath)], seconds, [wire.messages(changes, sent.start)])
        return self._taken_refusals(sent)

    def _taken_refusals(self, sent: range) -> dict[int, str]:
        refused, self._refusals = self._refusals, {}
        return {sent.index(xid): _error_text(message) for xid, message in refused.items() if xid in sent}

    def on_port(self, listener: Callable[[PortChange], None]) -> None:
        self._port_listener = listener


def _serialized(questions: Sequence[Any]) -> bytes:
    for question in questions:
        question.serialize()
    return b"".join(question.buf for question in questions)


def _change_text(change: Change) -> str:
    return f"({change.op}) {texts.change_text(change)}"


def _error_text(message: Any) -> str:
    if message.type == _O.OFPET_EXPERIMENTER:
        return f"error of experimenter {message.experimenter:#x}, type {message.exp_type}"
    kind, code = _O.ofp_error_type_to_str(message.type), _O.ofp_error_code_to_str(message.type, message.code)
    return f"{kind}, {code}"
