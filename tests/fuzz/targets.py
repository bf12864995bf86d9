# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is fuzzed.  Each target takes any bytes and raises only if RDMP did what it must never do."""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import schemas
from rdmp.decisionlog import MemoryDecisionLog
from rdmp.events import MemoryEventLog
from rdmp.frames import HEADER, MAGIC, Decoder, FrameError, encode
from rdmp.hub import Hub
from rdmp.journal import Journal, JournalError, Journalled
from rdmp.limits import Limits
from rdmp.messages import Message, MessageError, parse
from rdmp.participant_table import Entry, Meta, Phase, Write
from rdmp.records import TxRecord
from rdmp.rpc import ProgressSender, RpcError, RpcHandler
from rdmp.session import Origin, Session
from rdmp.tls import Identity

LIMIT = 1 << 16
LIMITS = Limits(heartbeat=60, stage_wait=60, calls_per_peer=4, subscriptions_per_peer=2, offences_per_connection=1000)
_CODES = frozenset({"bad_frame", "bad_message", "message_too_large"})


class Violation(Exception):
    """RDMP did what it must never do."""


# Frames


def frames(data: bytes) -> None:
    """However a stream is cut, the same objects or the same fault come out, and what came out goes in again."""
    whole, one = _decode([data]), _decode(data[at : at + 1] for at in range(len(data)))
    if whole != one:
        raise Violation(f"cut stream: {whole} and {one}")
    for value in whole[0]:
        if _decode([encode(value, 8 * LIMIT)]) != ([value], ""):
            raise Violation(f"not the same again: {value!r}")


def _decode(chunks: Iterable[bytes]) -> tuple[list[dict[str, Any]], str]:
    decoder, values = Decoder(LIMIT), []
    try:
        for chunk in chunks:
            for value in decoder.feed(chunk):
                values.append(value)
    except FrameError as error:
        if error.code not in _CODES:
            raise Violation(f"unknown code {error.code}") from error
        return values, error.code
    return values, ""


# Messages


def messages(data: bytes) -> None:
    """An object is a message that says the same when it is sent again, or is refused with at least one fault."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict):
        return
    try:
        message = parse(value)
    except MessageError as error:
        if not error.faults:
            raise Violation("refused without a fault") from error
        return
    if parse(message.to_json()) != message:
        raise Violation(f"not the same again: {message}")


# The state machine of a hub


class _Nobody(RpcHandler):
    async def call(
        self, peer: Identity, method: str, params: Mapping[str, Any], progress: ProgressSender
    ) -> Mapping[str, Any]:
        if method == "wait":
            await asyncio.sleep(3600)
        if method == "progress":
            await progress(params)
        if method == "fail":
            raise RpcError("unknown_method", method)
        return params


class _Wire(asyncio.Transport):
    """A transport in memory that keeps what the hub says."""

    def __init__(self) -> None:
        super().__init__()
        self.said = bytearray()
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.said += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class _Peer:
    """One connection of the fuzzed hub."""

    def __init__(self, hub: Hub, identity: Identity) -> None:
        self.wire = _Wire()
        self.session = Session(hub, LIMITS, Origin("tcp", str(identity)))
        self.session.connection_made(self.wire)
        hub._sessions[self.session].identity = identity

    def take(self, data: bytes) -> None:
        if not self.wire.closed:
            self.session.data_received(data)

    def end(self) -> None:
        self.session.connection_lost(None)


_PEERS = (Identity("c", "agent", "a1"), Identity("c", "agent", "a2"), Identity("c", "publisher", "p"))


def hub(data: bytes) -> None:
    """Any sequence of messages from three peers: nothing is raised, every answer is a message, and a transaction of
    one honest participant ends as that participant says."""
    asyncio.run(_hub(data))


async def _hub(data: bytes) -> None:
    raised: list[Mapping[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    log = MemoryDecisionLog()
    one = Hub(Identity("c", "orchestrator", "o"), log, MemoryEventLog(), _Nobody(), 2, "i", LIMITS, lambda: 0.0)
    honest = _Peer(one, Identity("c", "agent", "h"))
    honest.take(_say(_hello("h", "agent")))
    operation: dict[str, Any] = {"prepare": None, "stages": {"s": {}}}
    both = TxRecord("both", 0, 0, 0, "preparing", {"h": operation, "a1": operation}, ("s",))
    own = TxRecord("own", 0, 0, 0, "preparing", {"h": operation}, ("s",))
    peers = [_Peer(one, identity) for identity in _PEERS]
    for peer, identity in zip(peers, _PEERS, strict=True):
        peer.take(_say(_hello(identity.name, identity.role)))
    tasks = [asyncio.create_task(one.execute(record)) for record in (both, own)]
    for piece in data.split(b"\n"):
        if piece:
            peers[piece[0] % len(peers)].take(HEADER.pack(MAGIC, len(piece) - 1, zlib.crc32(piece[1:])) + piece[1:])
        await asyncio.sleep(0)
    await _turns()
    if _state(log, "own") == "committed":
        raise Violation("committed although its participant has not voted")
    for message in ({"type": "vote", "tx": "own", "vote": "yes"}, {"type": "done", "tx": "own", "stage": "s"}):
        honest.take(_say(message))
        await _turns()
    if _state(log, "own") != "committed" or not log.records["own"].finished:
        raise Violation(f"the honest transaction is {log.records['own']}")
    if _state(log, "both") == "committed":
        raise Violation("committed although one participant has not voted")
    for peer in (honest, *peers):
        for value in _decode([bytes(peer.wire.said)])[0]:
            parse(value)
        peer.end()
    await one.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    if raised:
        raise Violation(f"raised inside: {raised[0]}")


def _state(log: MemoryDecisionLog, tx: str) -> str:
    return log.records[tx].state


async def _turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def _hello(name: str, role: str) -> dict[str, Any]:
    return {"type": "hello", "versions": [1, 1], "name": name, "role": role, "boot": "b", "epoch": 0}


def _say(value: Mapping[str, Any]) -> bytes:
    return encode(value, LIMIT)


# The journal

_OPERATION = {"prepare": {"text": "x" * 300}, "stages": {"a": {}, "b": {"n": 1}}}


def journal(data: bytes) -> None:
    """A journal whose file was damaged is refused, or holds what it held at some moment; nothing else."""
    asyncio.run(_journal(data))


async def _journal(data: bytes) -> None:
    closed = bool(data and data[0] & 1)  # after a clean stop there is no write-ahead log, and all is in the file
    pristine, moments = await _written(closed)
    with tempfile.TemporaryDirectory(prefix="odyssey-fuzz-") as name:
        folder = Path(name)
        for file in pristine.iterdir():
            shutil.copy(file, folder)
        _damage(folder, data[1:])
        opened = Journal(folder / "journal")
        try:
            found = await opened.open()
        except JournalError as error:
            if "journal" not in str(error):
                raise Violation("an error that names no file") from error
            return
        finally:
            await opened.close()
        if found not in moments:
            raise Violation(f"silently wrong: {found}")


def _damage(folder: Path, data: bytes) -> None:
    """Damage the files as the bytes say: groups of file, kind, place (3) and value."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.endswith("-shm"))
    for at in range(0, len(data) - 5, 6):
        which, kind, value = data[at] % len(names), data[at + 1] % 4, data[at + 5]
        path = folder / names[which]
        content = bytearray(path.read_bytes())
        if not content:
            continue
        place = int.from_bytes(data[at + 2 : at + 5], "big") % len(content)
        match kind:
            case 0:
                content[place] ^= 1 << value % 8
            case 1:
                content[place] = value
            case 2:
                del content[place:]
            case _:
                start = place - place % 4096
                content[start : start + 4096] = bytes(len(content[start : start + 4096]))
        path.write_bytes(content)


_pristine: dict[bool, tuple[Path, list[Journalled]]] = {}


async def _written(closed: bool) -> tuple[Path, list[Journalled]]:
    """Write a journal once; return a copy of its files as a crash or a clean stop leaves them, and the states that
    it may be found in: after a crash also earlier ones, for a damaged end of the write-ahead log looks like a torn one.
    """
    if closed not in _pristine:
        folder = Path(tempfile.mkdtemp(prefix="odyssey-fuzz-"))
        one, meta = Journal(folder / "journal"), Meta()
        entries: dict[str, Entry] = {}
        state: dict[str, Mapping[str, Any]] = {}
        moments: list[Journalled] = []
        await one.open()
        moments.append(Journalled((), meta, {}))
        for number in range(12):
            phase = list(Phase)[1 + number % (len(Phase) - 1)]
            entry = Entry(f"t.{number}", number + 1, 1, phase, _OPERATION, 5.0, None, {"n": number}, None, {})
            entries[entry.id] = entry
            state[f"key/{number % 5}"] = {"seq": number}
            meta = Meta(epoch=number + 1)
            await one.write([Write(0, entry=entry, state={f"key/{number % 5}": {"seq": number}}, meta=meta)])
            moments.append(Journalled(tuple(entries.values()), meta, dict(state)))
            if number == 6:
                _checkpoint(folder / "journal")
        copy = Path(tempfile.mkdtemp(prefix="odyssey-fuzz-"))
        if closed:
            await one.close()
        for file in folder.iterdir():
            if not file.name.endswith("-shm"):
                shutil.copy(file, copy)
        await one.close()
        shutil.rmtree(folder)
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        # A file of no bytes is what a new participant begins with.
        _pristine[closed] = copy, [moments[0], moments[-1]] if closed else moments
    return _pristine[closed]


def _checkpoint(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    connection.close()


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "frames": frames, "messages": messages, "hub": hub, "journal": journal,
}  # fmt: skip


def seeds(name: str) -> list[bytes]:
    """Return the inputs that a target's fuzzing begins with."""
    examples = _examples()
    match name:
        case "frames":
            return [b"".join(encode(value, LIMIT) for value in examples), *(encode(value, LIMIT) for value in examples)]
        case "messages":
            return [json.dumps(value).encode() for value in examples]
        case "hub":
            lines = [json.dumps(value).encode() for value in examples]
            return [*(bytes([48 + at % 3]) + line for at, line in enumerate(lines)), b"\n0".join([b"", *lines])]
        case _:
            kinds = [bytes([file, kind, 0, place, 9, 7]) for file in (0, 1) for kind in range(4) for place in (1, 40)]
            return [bytes([closed]) + damage for closed in (0, 1) for damage in kinds]


def _examples() -> list[dict[str, Any]]:
    """One of each message, from the examples in the schema."""
    definitions = schemas.document("rdmp-message")["$defs"]
    types = {cls.TYPE for cls in Message.__subclasses__()}
    return [example for name, one in definitions.items() if name in types for example in one.get("examples", ())]


def quiet() -> None:
    """Let the targets log nothing: what they refuse is their everyday."""
    logging.disable(logging.CRITICAL)
