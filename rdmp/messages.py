# SPDX-License-Identifier: AGPL-3.0-or-later
"""The messages of RDMP as frozen values.

``parse`` is the border: it checks an object against the schema ``rdmp-message`` and returns a message; unknown fields
are dropped.  ``to_json`` gives the object back; fields that are None are left out.  Fields are explained in the schema.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import schemas
from schemas import Fault

PROTOCOL_VERSION = 1
PROTOCOL_OLDEST = 1
MIN_MESSAGE_BYTES = 1024
"""The least that a peer must accept: a welcome, a heartbeat, an error."""

Json = Mapping[str, Any]


class MessageError(Exception):
    """An object that is no RDMP message; ``faults`` names each reason with its path."""

    def __init__(self, message: str, faults: tuple[Fault, ...] = ()) -> None:
        super().__init__(message)
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Message:
    """The base of all messages."""

    TYPE: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        """Return the object that goes on the wire."""
        value: dict[str, Any] = {"type": self.TYPE}
        for attribute, name in _FIELDS[self.TYPE]:
            if (item := getattr(self, attribute)) is not None:
                value[name] = item
        return value


@dataclass(frozen=True, slots=True)
class Hello(Message):
    TYPE: ClassVar[str] = "hello"
    versions: tuple[int, int]
    name: str
    role: str
    boot: str
    epoch: int = 0
    limits: Json | None = None
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    TYPE: ClassVar[str] = "welcome"
    version: int
    name: str
    cluster: str
    epoch: int
    incarnation: str
    heartbeat: float
    limits: Json | None = None


@dataclass(frozen=True, slots=True)
class Ping(Message):
    TYPE: ClassVar[str] = "ping"
    n: int


@dataclass(frozen=True, slots=True)
class Pong(Message):
    TYPE: ClassVar[str] = "pong"
    n: int


@dataclass(frozen=True, slots=True)
class Error(Message):
    TYPE: ClassVar[str] = "error"
    code: str
    message: str
    path: str | None = None
    ref: str | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Prepare(Message):
    TYPE: ClassVar[str] = "prepare"
    tx: str
    seq: int
    epoch: int
    low_water: int
    deadline: float
    operation: Json


@dataclass(frozen=True, slots=True)
class Vote(Message):
    TYPE: ClassVar[str] = "vote"
    tx: str
    vote: str
    reason: str | None = None
    detail: Json | None = None


@dataclass(frozen=True, slots=True)
class Commit(Message):
    TYPE: ClassVar[str] = "commit"
    tx: str
    seq: int
    epoch: int
    stage: str


@dataclass(frozen=True, slots=True)
class Done(Message):
    TYPE: ClassVar[str] = "done"
    tx: str
    stage: str
    degraded: str | None = None
    detail: Json | None = None


@dataclass(frozen=True, slots=True)
class Abort(Message):
    TYPE: ClassVar[str] = "abort"
    tx: str
    seq: int
    epoch: int
    low_water: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Aborted(Message):
    TYPE: ClassVar[str] = "aborted"
    tx: str


@dataclass(frozen=True, slots=True)
class Inquire(Message):
    TYPE: ClassVar[str] = "inquire"
    tx: str
    seq: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Call(Message):
    TYPE: ClassVar[str] = "call"
    id: str
    method: str
    params: Json = dataclasses.field(default_factory=dict)
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Progress(Message):
    TYPE: ClassVar[str] = "progress"
    id: str
    data: Json


@dataclass(frozen=True, slots=True)
class Reply(Message):
    TYPE: ClassVar[str] = "reply"
    id: str
    result: Json | None = None
    error: Json | None = None


@dataclass(frozen=True, slots=True)
class Cancel(Message):
    TYPE: ClassVar[str] = "cancel"
    id: str


@dataclass(frozen=True, slots=True)
class Publish(Message):
    TYPE: ClassVar[str] = "publish"
    id: str
    topic: str
    data: Json


@dataclass(frozen=True, slots=True)
class Subscribe(Message):
    TYPE: ClassVar[str] = "subscribe"
    id: str
    topics: tuple[str, ...]
    from_index: int | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribe(Message):
    TYPE: ClassVar[str] = "unsubscribe"
    sub: str


@dataclass(frozen=True, slots=True)
class EventMessage(Message):
    TYPE: ClassVar[str] = "event"
    sub: str
    index: int
    time: str
    topic: str
    data: Json


@dataclass(frozen=True, slots=True)
class Ack(Message):
    TYPE: ClassVar[str] = "ack"
    sub: str
    index: int


def largest_message(message: Hello | Welcome) -> int | None:
    """Return the largest message that the sender accepts, in bytes, if it says so; never less than it must accept."""
    value = (message.limits or {}).get("max_message_bytes")
    return max(value, MIN_MESSAGE_BYTES) if isinstance(value, int) else None


_CLASSES: Mapping[str, type[Message]] = {
    cls.TYPE: cls
    for cls in (
        Hello, Welcome, Ping, Pong, Error, Prepare, Vote, Commit, Done, Abort, Aborted, Inquire, Call, Progress, Reply,
        Cancel, Publish, Subscribe, Unsubscribe, EventMessage, Ack,
    )
}  # fmt: skip

# For each type: the attribute and the name on the wire, which differ only where Python reserves the name.
_FIELDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    name: tuple((field.name, "from" if field.name == "from_index" else field.name) for field in dataclasses.fields(cls))
    for name, cls in _CLASSES.items()
}
_TUPLES = frozenset({"versions", "topics", "groups"})

_CUT_ITEMS, _CUT_TEXT, _CUT_DEPTH = 70, 4200, 4  # just above what the schema allows, so that its limits still show
_TOO_MUCH = Fault("$", None, "less", "$: it has too many items, or a text that is too long")


def _cut(value: Any, depth: int) -> Any:
    """Return a small copy of a value, with the faults of its first items."""
    if isinstance(value, str):
        return value[:_CUT_TEXT]
    if depth >= _CUT_DEPTH:
        return {} if isinstance(value, dict) else [] if isinstance(value, list) else value
    if isinstance(value, Mapping):
        # What the schema names stands first whatever the order was.
        keys = sorted(value, key=lambda key: key not in _NAMES)[:_CUT_ITEMS] if len(value) > _CUT_ITEMS else value
        return {key[:_CUT_TEXT]: _cut(value[key], depth + 1) for key in keys}
    if isinstance(value, list):
        return [_cut(item, depth + 1) for item in value[:_CUT_ITEMS]]
    return value


_NAMES = frozenset({"type", *(wire for fields in _FIELDS.values() for _, wire in fields)})


def parse(value: Mapping[str, Any]) -> Message:
    """Return the message that an object holds; raises MessageError with every fault (of a large one, the first)."""
    if not schemas.valid("rdmp-message", value):
        # To list the faults of 4 MiB may take a minute and gigabytes: whoever sends them would stop everybody.
        faults = schemas.validate("rdmp-message", _cut(value, 0)) or (_TOO_MUCH,)
        raise MessageError("not an RDMP message: " + "; ".join(fault.message for fault in faults), faults)
    name = value["type"]
    arguments = {
        attribute: tuple(value[wire]) if wire in _TUPLES else value[wire]
        for attribute, wire in _FIELDS[name]
        if wire in value
    }
    return _CLASSES[name](**arguments)
