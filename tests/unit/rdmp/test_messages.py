# SPDX-License-Identifier: AGPL-3.0-or-later
"""Messages, limits, endpoints, identities and records: what they accept, refuse and give back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

import schemas
from rdmp import messages
from rdmp.decisionlog import MemoryDecisionLog
from rdmp.endpoints import Endpoint
from rdmp.events import matches
from rdmp.limits import Limits
from rdmp.messages import MessageError, parse
from rdmp.records import TxProgress, TxRecord
from rdmp.rpc import PeerAbsent, RpcError
from rdmp.tls import Identity, IdentityError
from schemas import Fault

DEFINITIONS = schemas.document("rdmp-message")["$defs"]
TYPES = schemas.document("rdmp-message")["properties"]["type"]["enum"]
EXAMPLES = [example for name in TYPES for example in DEFINITIONS[name]["examples"]]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["type"])
def test_the_examples_of_the_schema_are_messages(example: dict[str, Any]) -> None:
    message = parse({**example, "field of a later version": 1})
    assert json.loads(json.dumps(message.to_json())) == example
    assert dataclasses.is_dataclass(message)


def test_every_class_has_a_schema_and_an_example() -> None:
    classes = {cls.TYPE for cls in messages.Message.__subclasses__()}
    assert classes == {example["type"] for example in EXAMPLES}
    assert set(TYPES) == classes


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({}, "$.type"),
        ({"type": "nothing"}, "$.type"),
        ({"type": "vote", "tx": "t.1", "vote": "maybe"}, "$.vote"),
        ({"type": "vote", "tx": "../t", "vote": "yes"}, "$.tx"),
        ({"type": "commit", "tx": "t.1", "seq": -1, "epoch": 1, "stage": "admit"}, "$.seq"),
        ({"type": "commit", "tx": "t.1", "seq": 1, "epoch": 1, "stage": "Admit!"}, "$.stage"),
        ({"type": "hello", "versions": [1], "name": "a", "role": "agent", "boot": "b"}, "$.versions"),
        ({"type": "reply", "id": "1"}, "$"),
        ({"type": "reply", "id": "1", "result": {}, "error": {"code": "a", "message": "b"}}, "$"),
        ({"type": "subscribe", "id": "1", "topics": ["a.>.b"]}, "$.topics[0]"),
    ],
)
def test_what_is_no_message_is_named(value: dict[str, Any], path: str) -> None:
    with pytest.raises(MessageError) as caught:
        parse(value)
    assert path in [fault.path for fault in caught.value.faults]


def test_limits_come_from_a_table() -> None:
    limits = Limits.from_table({"heartbeat": 1, "calls_per_peer": 3})
    assert (limits.heartbeat, limits.calls_per_peer) == (1.0, 3) and isinstance(limits.heartbeat, float)
    wrong: list[dict[str, Any]] = [{"hartbeat": 1}, {"calls_per_peer": 1.5}, {"heartbeat": 0}, {"heartbeat": "1"}]
    for table in [*wrong, {"calls_per_peer": True}]:
        with pytest.raises(ValueError, match=r"limit"):
            Limits.from_table(table)


@pytest.mark.parametrize("text", ["unix:/run/o.sock", "tls:192.0.2.1:7420", "tls:[::1]:7420", "tcp:localhost:1"])
def test_endpoints_are_read_and_written(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


@pytest.mark.parametrize("text", ["", "unix:relative", "tls:host", "tls:host:0", "tls:host:99999", "http:host:80"])
def test_wrong_endpoints_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no endpoint"):
        Endpoint.parse(text)


def test_identities() -> None:
    identity = Identity.parse("odyssey://lab/agent/h1")
    assert identity == Identity("lab", "agent", "h1") and str(identity) == "odyssey://lab/agent/h1"
    for wrong in ("odyssey://lab/agent", "odyssey://lab/king/h1", "http://lab/agent/h1", "odyssey://lab/agent/h1/x"):
        with pytest.raises(IdentityError):
            Identity.parse(wrong)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("node.admitted", "node.admitted", True),
        ("node.*", "node.admitted", True),
        ("node.*", "node.a.b", False),
        ("*.admitted", "node.admitted", True),
        (">", "node", True),
        ("node.>", "node.a.b", True),
        ("node.>", "node", False),
        ("node.*.>", "node.a", False),
        ("node", "node.a", False),
    ],
)
def test_topic_patterns(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected


def test_rpc_errors_cross_the_wire() -> None:
    fault = Fault("$.a", 1, "a text", "$.a: found 1, expected a text")
    back = RpcError.from_json(json.loads(json.dumps(RpcError("refused", "no", (fault,)).to_json())))
    assert (back.code, back.message, back.faults) == ("refused", "no", (fault,))
    assert str(back) == "no\n  $.a: found 1, expected a text"
    assert isinstance(RpcError.from_json({"code": "peer_absent", "message": "gone"}), PeerAbsent)


def a_record(**changes: Any) -> TxRecord:
    operations: dict[str, dict[str, Any]] = {
        "a": {"prepare": None, "stages": {"admit": {}, "names": {}}},
        "b": {"prepare": {}, "stages": {"names": {}}},
    }
    return dataclasses.replace(TxRecord("t.1", 1, 1, 1, "committed", operations, ("admit", "names")), **changes)


def test_records_tell_who_is_missing() -> None:
    assert a_record().takers("names") == ("a", "b") and a_record().takers("admit") == ("a",)
    assert a_record().missing() == ("a", "b")
    assert a_record(done={"admit": ("a",), "names": ("b",)}).missing() == ("a",)
    assert a_record(finished=True).missing() == ()
    assert a_record(state="aborted", done={"abort": ("b",)}).missing() == ("a",)
    assert a_record(degraded={"a": "slow"}, reason="why").summary()["degraded"] == {"a": "slow"}


def test_records_survive_json() -> None:
    record = a_record(done={"admit": ("a",)}, changes={"node/x": None}, events=({"topic": "t", "data": {}},))
    assert TxRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_progress_is_a_document_without_empty_fields() -> None:
    progress = TxProgress("t.1", "done", "committed", "a", "admit")
    expected = {"tx": "t.1", "event": "done", "state": "committed", "participant": "a", "stage": "admit"}
    assert progress.document() == expected


async def test_the_log_in_memory_compares_and_sets() -> None:
    log = MemoryDecisionLog()
    new = a_record(state="preparing", seq=0, revision=0, objects=("node/x",))
    created = await log.create(new)
    assert (created.seq, created.revision, log.low_water()) == (1, 1, 1)
    with pytest.raises(ValueError, match="exists already"):
        await log.create(new)
    with pytest.raises(ValueError, match="belongs to another"):
        await log.create(dataclasses.replace(new, id="t.2"))
    won = await log.decide("t.1", 1, "aborted", "first")
    lost = await log.decide("t.1", 1, "committed", None)
    assert (won.state, lost) == ("aborted", won)
    assert await log.open() == [won]
    assert await log.advance("t.1", 1, {}, {}, True) == won
    finished = await log.advance("t.1", 2, {"abort": ["a", "b"]}, {}, True)
    assert finished.finished and await log.lookup("t.1") == finished
    assert (log.low_water(), await log.open(), await log.lookup("t.9")) == (2, [], None)
