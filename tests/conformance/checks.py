# SPDX-License-Identifier: AGPL-3.0-or-later
"""What any RDMP server must do, one function for each; the docstring is the requirement."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from tests.conformance.wire import HEADER, Breach, Target, Wire, frame

Check = Callable[[Target], None]
PARTICIPANTS = ("agent", "controller")
BOTH: list[Check] = []
CALLERS: list[Check] = []
OF_PARTICIPANTS: list[Check] = []


def checks(role: str) -> list[Check]:
    """Return what a server must do for a peer of this role."""
    return [*BOTH, *(OF_PARTICIPANTS if role in PARTICIPANTS else CALLERS)]


def check(function: Check) -> Check:
    """Make a function part of the suite, for every role."""
    BOTH.append(function)
    return function


def caller(function: Check) -> Check:
    """Make a function part of the suite, for peers that may publish and subscribe ``scaling.>``."""
    CALLERS.append(function)
    return function


def participant(function: Check) -> Check:
    """Make a function part of the suite, for participants."""
    OF_PARTICIPANTS.append(function)
    return function


def same(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise Breach(f"expected {wanted!r}, found {found!r}")


def refused(wire: Wire, *codes: str) -> None:
    """The connection must end after an error of one of these codes."""
    messages = [message for message in wire.ended() if message["type"] != "ping"]
    if not messages or messages[-1]["type"] != "error" or messages[-1].get("code") not in codes:
        raise Breach(f"expected an error ({' or '.join(codes)}) and the end, got {str(messages)[:300]}")


def alive(wire: Wire) -> None:
    """The connection must still answer."""
    wire.send({"type": "ping", "n": 4711})
    wire.expect("pong", n=4711)


def call(number: str, method: str = "no.such.method", **more: Any) -> dict[str, Any]:
    return {"type": "call", "id": number, "method": method, "params": {}, "deadline": 5, **more}


@check
def hello_is_answered_with_welcome(target: Target) -> None:
    """`hello` is answered by `welcome` with version, name, cluster, epoch, incarnation and heartbeat."""
    welcome = target.connect().welcome
    for key, kind in (("version", int), ("name", str), ("cluster", str), ("epoch", int), ("incarnation", str)):
        if not isinstance(welcome.get(key), kind):
            raise Breach(f"welcome has {key} = {welcome.get(key)!r}")
    if not float(welcome["heartbeat"]) > 0:
        raise Breach("the heartbeat must be above 0")


@check
def the_version_is_in_both_ranges(target: Target) -> None:
    """The lower of the two newest versions is chosen; ranges that do not meet are refused with `version`."""
    wire = target.dial()
    wire.send(target.hello(versions=[1, 1_000_000]))
    if not 1 <= wire.expect("welcome")["version"] < 1_000_000:
        raise Breach("the version is not the server's newest")
    wire = target.dial()
    wire.send(target.hello(versions=[999_999, 1_000_000]))
    refused(wire, "version")


@check
def hello_comes_first(target: Target) -> None:
    """Anything before `hello` is refused and the connection ends."""
    for message in (call("1"), {"type": "ack", "sub": "1", "index": 1}, {"type": "welcome"}, {}):
        wire = target.dial()
        wire.send(message)
        refused(wire, "bad_message")


@check
def hello_must_be_true(target: Target) -> None:
    """A role that the connection does not prove is refused with `forbidden`."""
    wire = target.dial()
    wire.send(target.hello(role="agent" if target.role != "agent" else "controller"))
    refused(wire, "forbidden")


@check
def hello_with_a_wrong_type_is_refused(target: Target) -> None:
    """A `hello` with missing or wrong fields is refused with `bad_message`."""
    for wrong in ({"versions": [1]}, {"versions": "1"}, {"boot": 7}, {"name": ""}, {"epoch": -1}):
        wire = target.dial()
        wire.send(target.hello(**wrong))
        refused(wire, "bad_message")


@check
def an_epoch_from_the_future_is_told(target: Target) -> None:
    """A `hello` with a higher epoch than the server's is refused with `stale_epoch`."""
    epoch = target.connect().welcome["epoch"]
    wire = target.dial()
    wire.send(target.hello(epoch=epoch + 1))
    refused(wire, "stale_epoch")


@check
def a_frame_may_come_in_pieces_and_with_others(target: Target) -> None:
    """Frames are found in the stream however it is cut."""
    wire = target.connect()
    for byte in frame({"type": "ping", "n": 1}):
        wire.raw(bytes([byte]))
    wire.expect("pong", n=1)
    wire.raw(b"".join(frame({"type": "ping", "n": n}) for n in range(2, 50)))
    for number in range(2, 50):
        wire.expect("pong", n=number)


@check
def a_wrong_magic_ends_the_connection(target: Target) -> None:
    """Bytes that are no frame: `bad_frame`, and the end, before and after the handshake."""
    for wire in (target.dial(), target.connect()):
        wire.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        refused(wire, "bad_frame")


@check
def a_wrong_checksum_ends_the_connection(target: Target) -> None:
    """A wrong CRC-32: `bad_frame`, and the end."""
    wire = target.connect()
    body = b'{"type":"ping","n":1}'
    wire.raw(HEADER.pack(b"JSN1", len(body), zlib.crc32(body) ^ 1) + body)
    refused(wire, "bad_frame")


@check
def a_length_beyond_the_limit_is_refused_at_its_header(target: Target) -> None:
    """A length of 4 GiB: `message_too_large` and the end, without waiting for the payload."""
    wire = target.connect()
    wire.raw(struct.pack("!4sII", b"JSN1", 0xFFFFFFFF, 0))
    refused(wire, "message_too_large")


@check
def json_is_strict(target: Target) -> None:
    """NaN, infinity, duplicate keys, lone surrogates, deep nesting, wrong UTF-8, other than an object: the end."""
    bodies = (
        b'{"type":"ping","n":NaN}', b'{"type":"ping","n":1e999}', b'{"type":"ping","n":1,"n":2}', b'{"x":"\\ud800"}',
        b'{"x":' + b"[" * 100 + b"]" * 100 + b"}", b'{"x":"\xff"}', b"[1]", b"{", b"",
    )  # fmt: skip
    for body in bodies:
        wire = target.connect()
        wire.send(body)
        refused(wire, "bad_message", "bad_frame")


@check
def a_wrong_message_is_answered_and_the_connection_stays(target: Target) -> None:
    """After the handshake a wrong message is told with its path; the connection stays."""
    wire = target.connect()
    wire.send({"type": "ping"})
    wire.expect("error", code="bad_message")
    wire.send({"type": "nonsense"})
    wire.expect("error", code="bad_message")
    same(wire.failed({"type": "call", "id": "7", "params": {}}), "bad_message")
    same(wire.failed({"type": "subscribe", "id": "8", "topics": ["a..b"]}), "bad_message")
    alive(wire)


@caller
def what_is_not_yours_to_send_is_refused(target: Target) -> None:
    """Messages of a coordinator or a participant from somebody else: `forbidden`; the connection stays."""
    wire = target.connect()
    for message in (
        {"type": "vote", "tx": "t", "vote": "yes"}, {"type": "commit", "tx": "t", "seq": 1, "epoch": 1, "stage": "a"},
        {"type": "event", "sub": "1", "index": 1, "time": "2026-01-01T00:00:00Z", "topic": "a.b", "data": {}},
    ):  # fmt: skip
        wire.send(message)
        wire.expect("error", code="forbidden")
    alive(wire)


@check
def unknown_fields_are_ignored(target: Target) -> None:
    """Fields that the version does not know are ignored, in every message."""
    wire = target.dial()
    wire.send(target.hello(future={"deep": [1, 2]}))
    wire.expect("welcome")
    wire.send({"type": "ping", "n": 3, "future": None})
    wire.expect("pong", n=3)
    same(wire.failed(call("1", future=[{}])), "unknown_method")


@check
def calls_are_matched_by_their_id(target: Target) -> None:
    """Many calls at a time are each answered once, with their id; an unknown method is `unknown_method`."""
    wire = target.connect()
    for number in range(30):
        wire.send(call(f"c{number}"))
    replies = [wire.expect("reply") for _ in range(30)]
    same({reply["id"] for reply in replies}, {f"c{number}" for number in range(30)})
    same({reply["error"]["code"] for reply in replies}, {"unknown_method"})


@check
def a_cancel_of_nothing_is_nothing(target: Target) -> None:
    """`cancel` and `unsubscribe` of unknown ids, late replies and progress are ignored."""
    wire = target.connect()
    for message in (
        {"type": "cancel", "id": "x"}, {"type": "unsubscribe", "sub": "x"}, {"type": "ack", "sub": "x", "index": 5},
        {"type": "reply", "id": "x", "result": {}}, {"type": "progress", "id": "x", "data": {}},
    ):  # fmt: skip
        wire.send(message)
    alive(wire)


def subscribe(wire: Wire, number: str, *topics: str, **more: Any) -> int:
    return int(wire.ask({"type": "subscribe", "id": number, "topics": list(topics), **more})["result"]["index"])


def publish(wire: Wire, topic: str, data: Mapping[str, Any]) -> int:
    return int(wire.ask({"type": "publish", "id": uuid.uuid4().hex, "topic": topic, "data": data})["result"]["index"])


def event(wire: Wire, number: str) -> dict[str, Any]:
    """Return the next event, acknowledged."""
    found = wire.expect("event", sub=number)
    wire.send({"type": "ack", "sub": number, "index": found["index"]})
    return found


@caller
def events_match_by_topic_and_come_in_order(target: Target) -> None:
    """`*` is one level, a last `>` one or more; events come in order, with index and time."""
    reader, writer = target.connect(), target.connect()
    mark = "c" + uuid.uuid4().hex[:8]
    subscribe(reader, "s", f"scaling.{mark}.*", f"scaling.{mark}.deep.>")
    topics = [f"scaling.{mark}", f"scaling.{mark}.a", f"scaling.{mark}.a.b", f"scaling.{mark}.deep.a.b"]
    indexes = [publish(writer, topic, {"n": n}) for n, topic in enumerate(topics)]
    for place in (1, 3):
        found = event(reader, "s")
        same((found["topic"], found["index"], found["data"]), (topics[place], indexes[place], {"n": place}))
        same(found["time"][-1], "Z")


@caller
def a_subscription_resumes_from_an_index(target: Target) -> None:
    """`from` gives what is kept from that index on, before what is new; what was not acknowledged comes again."""
    writer = target.connect()
    topic = f"scaling.r{uuid.uuid4().hex[:8]}"
    indexes = [publish(writer, topic, {"n": n}) for n in range(20)]
    first = target.connect()
    subscribe(first, "s", topic, **{"from": indexes[5]})
    same([event(first, "s")["index"] for _ in range(5)], indexes[5:10])
    first.close()
    again = target.connect()
    subscribe(again, "t", topic, **{"from": indexes[10]})
    same([event(again, "t")["index"] for _ in range(10)], indexes[10:])
    same(publish(writer, topic, {"n": 20}), event(again, "t")["index"])


@caller
def an_unsubscribed_topic_is_silent(target: Target) -> None:
    """After `unsubscribe` no event comes."""
    wire = target.connect()
    topic = f"scaling.u{uuid.uuid4().hex[:8]}"
    subscribe(wire, "s", topic)
    wire.send({"type": "unsubscribe", "sub": "s"})
    publish(wire, topic, {})
    alive(wire)


@caller
def an_id_in_use_and_too_many_subscriptions_are_refused(target: Target) -> None:
    """A second subscription of one id is `duplicate_id`; without end they are `too_many_subscriptions`."""
    wire = target.connect()
    message = {"type": "subscribe", "id": "s", "topics": ["scaling.never"]}
    wire.ask(message)
    same(wire.failed(message), "duplicate_id")
    for number in range(10_000):
        reply = wire.ask({**message, "id": f"s{number}"})
        if "error" in reply:
            same(reply["error"]["code"], "too_many_subscriptions")
            return
    raise Breach("10000 subscriptions on one connection")


@check
def topics_of_the_hub_are_its_own(target: Target) -> None:
    """Nobody else publishes `tx`, `peer` or `hub`."""
    wire = target.connect()
    for topic in ("tx.decided", "peer.lost", "hub.fenced"):
        message: dict[str, Any] = {"type": "publish", "id": topic, "topic": topic, "data": {}}
        same(wire.failed(message), "forbidden")


@check
def heartbeats_come_and_silence_ends_the_connection(target: Target) -> None:
    """The server pings; a peer that sends nothing for some beats is cut."""
    wire = target.connect()
    if wire.welcome["heartbeat"] > 3:
        return
    kinds = {message["type"] for message in wire.ended()}
    if "ping" not in kinds:
        raise Breach("no ping came before the end")


@participant
def doubt_about_an_unknown_transaction_is_answered(target: Target) -> None:
    """`inquire` about an unknown transaction: `abort` if it is of an older epoch, `unknown_tx` if of this one."""
    wire = target.connect()
    epoch, tx = wire.welcome["epoch"], f"c{uuid.uuid4().hex[:8]}"
    wire.send({"type": "inquire", "tx": tx, "seq": 1, "epoch": epoch - 1})
    abort = wire.expect("abort", tx=tx, epoch=epoch)
    for key in ("seq", "low_water"):
        if not isinstance(abort.get(key), int):
            raise Breach(f"abort has {key} = {abort.get(key)!r}")
    wire.send({"type": "inquire", "tx": tx, "seq": 1, "epoch": epoch})
    wire.expect("error", code="unknown_tx", ref=tx)


@participant
def answers_about_nothing_are_ignored(target: Target) -> None:
    """`vote`, `done`, `aborted` and errors about transactions that are not open change nothing."""
    wire = target.connect()
    for message in (
        {"type": "vote", "tx": "c", "vote": "yes"}, {"type": "done", "tx": "c", "stage": "a"},
        {"type": "aborted", "tx": "c"}, {"type": "error", "code": "internal", "message": "x", "ref": "c"},
    ):  # fmt: skip
        wire.send(message)
    alive(wire)


@participant
def a_second_connection_replaces_the_first(target: Target) -> None:
    """A participant that connects again ends its older connection with `replaced`."""
    first = target.connect()
    second = target.connect()
    refused(first, "replaced")
    alive(second)


@participant
def a_participant_publishes_what_it_sees_and_subscribes_to_nothing(target: Target) -> None:
    """`publish` of a permitted topic gives an index; `subscribe` without permission is `forbidden`."""
    wire = target.connect()
    if publish(wire, "node.conformance" if target.role == "agent" else "switch.conformance", {}) < 1:
        raise Breach("an index begins with 1")
    same(wire.failed({"type": "subscribe", "id": "s", "topics": [">"]}), "forbidden")
