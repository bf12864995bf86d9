# SPDX-License-Identifier: AGPL-3.0-or-later
"""JSN1 frames: JSON objects on a byte stream, without input or output.

A frame is a 12 byte header (network order: magic ``JSN1``, length, CRC-32 of the payload as zlib computes it) and the
payload, one UTF-8 JSON object.  It is the format of jsocket 2.0.3, so that any jsocket client can talk to RDMP.
JSON is read strictly (RFC 8259 and I-JSON, RFC 7493): no NaN or infinity, no duplicate key, no lone surrogate, bounded
depth and length.  The length is checked before the payload is accepted.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from rdmp.limits import MAX_CONTAINERS, MAX_DEPTH

MAGIC = b"JSN1"
LARGEST_INTEGER = 1 << 53  # from there on floats leave integers out
HEADER = struct.Struct("!4sII")
_SHOWN = 100  # characters of a wrong key that an error shows
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class FrameError(Exception):
    """Bytes that are no frame, or an object that cannot be one; the connection must be closed. ``code`` is for RDMP."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def dump(value: Any) -> str:
    """Return ``value`` as compact strict JSON; raises FrameError if JSON cannot say it."""
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameError("bad_message", f"the value cannot be written as JSON: {error}") from error


def encode(message: Mapping[str, Any], max_bytes: int) -> bytes:
    """Return the frame of one JSON object; raises FrameError if it is too large or not JSON."""
    try:
        body = dump(message).encode()
    except UnicodeEncodeError as error:
        raise FrameError("bad_message", f"a text holds a lone surrogate: {error}") from error
    if len(body) > max_bytes:
        raise FrameError("message_too_large", f"the message has {len(body)} bytes; the limit is {max_bytes}")
    return HEADER.pack(MAGIC, len(body), zlib.crc32(body)) + body


class Decoder:
    """Turn the bytes of one connection into JSON objects.  After a FrameError it must not be used again.

    ``size`` is the payload of the newest object in bytes.  ``max_bytes`` may be changed between two frames.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size = 0
        self._buffer = bytearray()

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Take bytes, yield every object that is now complete; raises FrameError at the first fault."""
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= HEADER.size:
                magic, length, checksum = HEADER.unpack_from(self._buffer, start)
                self._check_header(magic, length)
                end = start + HEADER.size + length
                if len(self._buffer) < end:
                    return
                body = bytes(self._buffer[start + HEADER.size : end])
                start = end
                if zlib.crc32(body) != checksum:
                    raise FrameError("bad_frame", "the checksum of a frame is wrong")
                self.size = length
                yield parse(body)
        finally:
            del self._buffer[:start]

    def _check_header(self, magic: bytes, length: int) -> None:
        if magic != MAGIC:
            raise FrameError("bad_frame", f"a frame must begin with {MAGIC!r}; found {magic!r}")
        if length > self.max_bytes:
            raise FrameError("message_too_large", f"a message of {length} bytes; the limit is {self.max_bytes}")


def parse(body: bytes) -> dict[str, Any]:
    """Parse one strict JSON object; raises FrameError."""
    # Counting brackets is cheap: it bounds the memory that a message takes, and only a suspicious one is walked.
    brackets = body.count(b"{") + body.count(b"[")
    if brackets > MAX_CONTAINERS:
        raise FrameError("bad_message", f"a message of {brackets} objects and arrays; the limit is {MAX_CONTAINERS}")
    try:
        value = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_number)
    except RecursionError as error:
        raise FrameError("bad_message", f"a message is nested deeper than {MAX_DEPTH}") from error
    except ValueError as error:
        raise FrameError("bad_message", f"a message is not strict JSON: {error}") from error
    if not isinstance(value, dict):
        raise FrameError("bad_message", f"a message must be a JSON object; found {type(value).__name__}")
    if brackets > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise FrameError("bad_message", f"a message is nested deeper than {MAX_DEPTH}")
    if _SURROGATE.search(body):
        _no_surrogate(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {again[:_SHOWN]!r}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _number(text: str) -> float | int:
    """A number that is written with a point or exponent: `2.0` is the integer 2 in JSON Schema, so it is here."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is out of range")
    return int(value) if value.is_integer() and abs(value) < LARGEST_INTEGER else value


def _no_surrogate(value: Any) -> None:
    try:
        _encoder.encode(value).encode()
    except UnicodeEncodeError as error:
        raise FrameError("bad_message", "a text holds a lone surrogate") from error


def _depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack:
        node, depth = stack.pop()
        children = node.values() if isinstance(node, dict) else node
        deepest = max(deepest, depth)
        stack.extend((child, depth + 1) for child in children if isinstance(child, dict | list))
    return deepest
