# SPDX-License-Identifier: AGPL-3.0-or-later
"""JSN1 frames: what goes in comes out, however the stream is cut; what is wrong is refused."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsocket import jsocket_base

from rdmp.frames import HEADER, MAGIC, Decoder, FrameError, dump, encode, parse
from rdmp.limits import MAX_DEPTH

LIMIT = 1 << 20
texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(scalars | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20)
objects = st.dictionaries(texts, values, max_size=5)


def frame(body: bytes) -> bytes:
    return HEADER.pack(MAGIC, len(body), zlib.crc32(body)) + body


def read(data: bytes, limit: int = LIMIT) -> list[dict[str, Any]]:
    return list(Decoder(limit).feed(data))


@settings(deadline=None)
@given(st.lists(objects, max_size=4), st.lists(st.integers(0, 2000), max_size=10))
def test_any_objects_survive_any_cut_of_the_stream(messages: list[dict[str, Any]], cuts: list[int]) -> None:
    stream = b"".join(encode(message, LIMIT) for message in messages)
    decoder, start = Decoder(LIMIT), 0
    seen: list[dict[str, Any]] = []
    for cut in [*sorted(cuts), len(stream)]:
        seen += decoder.feed(stream[start:cut])
        start = max(start, cut)
    assert seen == messages


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_a_frame_error(data: bytes) -> None:
    for stream in (data, frame(data), MAGIC + data):
        try:
            assert all(isinstance(value, dict) for value in read(stream))
        except FrameError as error:
            assert error.code in ("bad_frame", "bad_message", "message_too_large")


def test_the_format_is_that_of_jsocket() -> None:
    assert (MAGIC, HEADER.format) == (jsocket_base.FRAME_MAGIC, jsocket_base.FRAME_HEADER_FMT)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "duplicate key 'c'"),
        (b'{"a": "\\ud800"}', "lone surrogate"),
        (b'{"a": "\xff"}', "strict JSON"),
        (b"[1]", "must be a JSON object; found list"),
        (b'{"a": 1} x', "strict JSON"),
        (b"", "strict JSON"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested deeper"),
        (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "nested deeper"),
        (b'{"a":' + b"1" * 5000 + b"}", "strict JSON"),
    ],
)
def test_json_is_read_strictly(body: bytes, text: str) -> None:
    with pytest.raises(FrameError, match=text.replace("[", r"\[")) as caught:
        read(frame(body))
    assert caught.value.code == "bad_message"


def test_what_json_allows_is_accepted() -> None:
    deep = '{"a":' * (MAX_DEPTH - 1) + "{}" + "}" * (MAX_DEPTH - 1)
    many = json.dumps({"list": [{} for _ in range(500)]})
    for body in (deep, many, '{"pair": "\\ud83d\\ude00"}'):
        assert parse(body.encode()) == json.loads(body)


def test_a_whole_number_is_an_integer_however_it_is_written() -> None:
    found = parse(b'{"a": 2.0, "b": [1e2, -3.0], "c": 2.5, "d": 9007199254740993.0, "e": 1e300, "f": 0.0}')
    assert found == {"a": 2, "b": [100, -3], "c": 2.5, "d": 9007199254740992.0, "e": 1e300, "f": 0}
    assert [type(value) for value in (found["a"], *found["b"], found["f"])] == [int] * 4
    assert type(found["d"]) is type(found["e"]) is float


def test_the_length_is_checked_before_the_body_comes() -> None:
    with pytest.raises(FrameError) as caught:
        read(HEADER.pack(MAGIC, LIMIT + 1, 0))
    assert caught.value.code == "message_too_large"
    with pytest.raises(FrameError) as caught:
        encode({"a": "x" * 100}, 50)
    assert caught.value.code == "message_too_large"


@pytest.mark.parametrize("wrong", [HEADER.pack(b"JSN2", 2, 0), HEADER.pack(MAGIC, 2, 0) + b"{}"])
def test_wrong_headers_are_refused(wrong: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        read(wrong)
    assert caught.value.code == "bad_frame"


def test_messages_before_a_fault_are_delivered() -> None:
    seen = []
    with pytest.raises(FrameError):
        for value in Decoder(LIMIT).feed(frame(b'{"n": 1}') + b"rubbish of some length"):
            seen.append(value)
    assert seen == [{"n": 1}]


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": object()}, {"a": "\ud800"}])
def test_what_json_cannot_say_is_not_sent(value: dict[str, Any]) -> None:
    with pytest.raises(FrameError):
        encode(value, LIMIT)
    assert dump({"ä": None}) == '{"ä":null}'
