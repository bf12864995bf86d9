# SPDX-License-Identifier: AGPL-3.0-or-later
"""A cheap OpenFlow 1.3 switch over TLS: holds what it is told, in bytes, and gives it back.

It knows roles and generations (OpenFlow 1.3.5, 6.3.6), bundles (ONF extension 230), flow entries, groups and meters.
It forwards nothing.  What it holds outlives its connections, as in a real switch.
"""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from typing import NamedTuple

from rdmp.tls import TlsFiles

HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, EXPERIMENTER, FEATURES_REQUEST, FEATURES_REPLY = 0, 1, 2, 3, 4, 5, 6
PACKET_OUT, FLOW_MOD, GROUP_MOD, PORT_MOD, TABLE_MOD = 13, 14, 15, 16, 17
MULTIPART_REQUEST, MULTIPART_REPLY, BARRIER_REQUEST, BARRIER_REPLY = 18, 19, 20, 21
ROLE_REQUEST, ROLE_REPLY, METER_MOD = 24, 25, 29
#: What a controller must be MASTER for; a bundle carries such messages inside.
WRITES = frozenset({PACKET_OUT, FLOW_MOD, GROUP_MOD, PORT_MOD, TABLE_MOD, METER_MOD, EXPERIMENTER})
NOCHANGE, EQUAL, MASTER, SLAVE = range(4)
UNKNOWN_GENERATION = 2**64 - 1
_FLOW, _AGGREGATE, _GROUP_DESC, _METER_CONFIG = 1, 2, 7, 10
_ONF = 0x4F4E4600
_BUNDLE_CONTROL, _BUNDLE_ADD = 2300, 2301
_COMMIT, _DISCARD = 4, 6
_PART_BYTES = 60000
_FLOW_MOD = struct.Struct("!QQBBHHHIIIH2x")


class _Entry(NamedTuple):
    cookie: int
    instructions: bytes


class OpenFlowSwitch:
    """One switch; ``connect`` may be called again after ``leave``."""

    def __init__(self, name: str, datapath_id: int, files: TlsFiles) -> None:
        self.name = name
        self.silent = False  # answers nothing any more
        self.refused = 0  # writes of a controller that was not MASTER
        self.received: Counter[int] = Counter()  # messages of all connections, by type
        self.before_role: set[int] = set()  # types that came on a connection before its first role request
        self.entries: dict[tuple[int, int, bytes], _Entry] = {}
        self.groups: dict[int, bytes] = {}
        self.meters: dict[int, bytes] = {}
        self.generation: int | None = None
        self.role = EQUAL
        self.granted = asyncio.Event()
        self._datapath_id = datapath_id
        self._context = files.client_context()
        self._bundles: dict[int, list[bytes]] = {}
        self._asked = False
        self._serving: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self, host: str, port: int, *, talk: bool = True) -> None:
        """Connect and begin to serve; without ``talk`` only TLS is spoken.  Raises OSError."""
        reader, self._writer = await asyncio.open_connection(host, port, ssl=self._context)
        self.role, self._asked, self.silent = EQUAL, False, False
        self.granted.clear()
        self._bundles.clear()
        if talk:
            self._send(HELLO, 1)
            self._serving = asyncio.create_task(self._serve(reader), name=f"switch {self.name}")

    async def leave(self, *, abort: bool = False) -> None:
        """End the connection, with ``abort`` in the middle of whatever goes on."""
        if self._writer is None:
            return
        if abort:
            self._writer.transport.abort()
        else:
            self._writer.close()
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        self._writer = self._serving = None

    async def closed(self) -> None:
        """Wait until the controller has ended the connection."""
        if self._serving is not None:
            await asyncio.wait([self._serving])

    def _send(self, kind: int, xid: int, body: bytes = b"") -> None:
        if self._writer is not None and not self.silent:
            self._writer.write(struct.pack("!BBHI", 4, kind, 8 + len(body), xid) + body)

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                header = await reader.readexactly(8)
                _, kind, length, xid = struct.unpack("!BBHI", header)
                body = await reader.readexactly(length - 8)
                self._received(kind, xid, body, header + body)
        except (asyncio.IncompleteReadError, OSError):
            return

    def _received(self, kind: int, xid: int, body: bytes, whole: bytes) -> None:
        self.received[kind] += 1
        if kind == ROLE_REQUEST:
            self._asked = True
            self._role(xid, body)
            return
        if not self._asked:
            self.before_role.add(kind)
        if kind in WRITES and self.role != MASTER:
            self.refused += 1
            self._send(ERROR, xid, struct.pack("!HH", 1, 10) + whole[:64])  # OFPBRC_IS_SLAVE
        elif kind == FEATURES_REQUEST:
            self._send(FEATURES_REPLY, xid, struct.pack("!QIBB2xII", self._datapath_id, 256, 254, 0, 0x47, 0))
        elif kind == ECHO_REQUEST:
            self._send(ECHO_REPLY, xid, body)
        elif kind == BARRIER_REQUEST:
            self._send(BARRIER_REPLY, xid)
        elif kind == MULTIPART_REQUEST:
            self._multipart(xid, body)
        elif kind == EXPERIMENTER:
            self._bundle(xid, body)
        else:
            self._carry_out(kind, body)

    def _role(self, xid: int, body: bytes) -> None:
        role, generation = struct.unpack("!I4xQ", body)
        if role != NOCHANGE:
            if role != EQUAL and self.generation is not None and generation < self.generation:
                self._send(ERROR, xid, struct.pack("!HH", 11, 0) + body)  # OFPRRFC_STALE
                return
            self.role = role
            self.generation = self.generation if role == EQUAL else generation
            self.granted.set()
        known = UNKNOWN_GENERATION if self.generation is None else self.generation
        self._send(ROLE_REPLY, xid, struct.pack("!I4xQ", self.role, known))

    def _bundle(self, xid: int, body: bytes) -> None:
        experimenter, kind = struct.unpack_from("!II", body)
        assert experimenter == _ONF, experimenter
        if kind == _BUNDLE_ADD:
            self._bundles[struct.unpack_from("!I", body, 8)[0]].append(body[16:])
            return
        assert kind == _BUNDLE_CONTROL, kind
        bundle, step, flags = struct.unpack_from("!IHH", body, 8)
        if step == _COMMIT:
            for message in self._bundles.pop(bundle):
                length = struct.unpack_from("!H", message, 2)[0]
                self._carry_out(message[1], message[8:length])
        elif step == _DISCARD:
            self._bundles.pop(bundle, None)
        else:
            self._bundles[bundle] = []
        self._send(EXPERIMENTER, xid, struct.pack("!IIIHH", _ONF, _BUNDLE_CONTROL, bundle, step + 1, flags))

    def _carry_out(self, kind: int, body: bytes) -> None:
        if kind == FLOW_MOD:
            cookie, _, table, command, _, _, priority, *_ = _FLOW_MOD.unpack_from(body)
            length = struct.unpack_from("!H", body, _FLOW_MOD.size + 2)[0]
            split = _FLOW_MOD.size + (length + 7) // 8 * 8
            key = table, priority, body[_FLOW_MOD.size : split]
            if command == 0:
                self.entries[key] = _Entry(cookie, body[split:])
            else:
                self.entries.pop(key, None)
        elif kind == GROUP_MOD:
            command, what, group = struct.unpack_from("!HBxI", body)
            self.groups.pop(group, None)
            if command != 2:
                self.groups[group] = struct.pack("!BxI", what, group) + body[8:]
        elif kind == METER_MOD:
            command, flags, meter = struct.unpack_from("!HHI", body)
            self.meters.pop(meter, None)
            if command != 2:
                self.meters[meter] = struct.pack("!HI", flags, meter) + body[8:]

    def _multipart(self, xid: int, body: bytes) -> None:
        kind = struct.unpack_from("!H", body)[0]
        items: list[bytes] = []
        if kind in (_FLOW, _AGGREGATE):
            cookie, mask = struct.unpack_from("!QQ", body, 8 + 16)
            found = [(key, one) for key, one in self.entries.items() if one.cookie & mask == cookie & mask]
            if kind == _AGGREGATE:
                items = [struct.pack("!QQI4x", 0, 0, len(found))]
            for (table, priority, match), entry in found if kind == _FLOW else ():
                rest = match + entry.instructions
                fixed = (48 + len(rest), table, 1, 0, priority, 0, 0, 0, entry.cookie, 0, 0)
                items.append(struct.pack("!HBxIIHHHH4xQQQ", *fixed) + rest)
        elif kind == _GROUP_DESC:
            items = [struct.pack("!H", 2 + len(one)) + one for one in self.groups.values()]
        elif kind == _METER_CONFIG:
            items = [struct.pack("!H", 2 + len(one)) + one for one in self.meters.values()]
        parts = [b""]
        for item in items:
            if len(parts[-1]) + len(item) > _PART_BYTES:
                parts.append(b"")
            parts[-1] += item
        for number, part in enumerate(parts, start=1):
            self._send(MULTIPART_REPLY, xid, struct.pack("!HH4x", kind, int(number < len(parts))) + part)
