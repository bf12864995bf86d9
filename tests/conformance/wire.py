# SPDX-License-Identifier: AGPL-3.0-or-later
"""Frames and connections of the conformance suite, written from docs/rdmp.md alone: nothing of rdmp/ is used."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEADER = struct.Struct("!4sII")
SECONDS = 10.0
"""How long an answer may take before a check fails."""


class Closed(Exception):
    """The server ended the connection."""


class Breach(Exception):
    """The server did something else than the specification says."""


def frame(value: Mapping[str, Any] | bytes) -> bytes:
    """Return one frame; bytes are taken as they are."""
    body = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return HEADER.pack(b"JSN1", len(body), zlib.crc32(body)) + body


class Target:
    """Where the hub is: ``unix:/path``, ``tcp:host:port``, or ``tls:host:port`` with a directory of certificates."""

    def __init__(self, endpoint: str, pki: Path | None, role: str, name: str) -> None:
        self.kind, _, self.place = endpoint.partition(":")
        self.pki = pki
        self.role = role
        self.name = name

    def dial(self) -> Wire:
        """Return a connection before its handshake; raises OSError."""
        if self.kind == "unix":
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(SECONDS)
            sock.connect(self.place)
            return Wire(sock)
        host, _, port = self.place.rpartition(":")
        sock = socket.create_connection((host.strip("[]"), int(port)), SECONDS)
        if self.kind == "tcp":
            return Wire(sock)
        if self.pki is None:
            raise OSError("tls: needs --pki DIR with cert.pem, key.pem and ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.load_verify_locations(self.pki / "ca.pem")
        context.load_cert_chain(self.pki / "cert.pem", self.pki / "key.pem")
        return Wire(context.wrap_socket(sock))

    def hello(self, **changes: Any) -> dict[str, Any]:
        """Return the first message, with changes."""
        return {"type": "hello", "versions": [1, 1], "name": self.name, "role": self.role, "boot": "c0", **changes}

    def connect(self) -> Wire:
        """Return a connection after its handshake."""
        wire = self.dial()
        wire.send(self.hello())
        wire.welcome = wire.expect("welcome")
        return wire


class Wire:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.welcome: dict[str, Any] = {}
        sock.settimeout(SECONDS)

    def send(self, value: Mapping[str, Any] | bytes) -> None:
        """Send one message."""
        self.raw(frame(value))

    def raw(self, data: bytes) -> None:
        """Send bytes; that the other side has closed is seen when reading."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionError):
            return

    def read(self) -> dict[str, Any]:
        """Return the next message, whatever it is; raises Closed or Breach."""
        magic, length, checksum = HEADER.unpack(self._take(HEADER.size))
        if magic != b"JSN1":
            raise Breach(f"a frame begins with {magic!r}")
        body = self._take(length)
        if zlib.crc32(body) != checksum:
            raise Breach("the checksum of a frame is wrong")
        value = json.loads(body)
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise Breach(f"not a message: {value!r}")
        return value

    def next(self) -> dict[str, Any]:
        """Return the next message but for pings, which are answered."""
        while (value := self.read())["type"] == "ping":
            self.send({"type": "pong", "n": value["n"]})
        return value

    def expect(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the next message, which must be of this type and have these fields."""
        value = self.next()
        if value["type"] != kind or any(value.get(key) != wanted for key, wanted in fields.items()):
            raise Breach(f"expected {kind} {fields or ''}, got {json.dumps(value)[:300]}")
        return value

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message with an id and return its reply."""
        self.send(message)
        return self.expect("reply", id=message["id"])

    def failed(self, message: Mapping[str, Any]) -> str:
        """Send a message with an id, which must be refused; return the code."""
        reply = self.ask(message)
        error = reply.get("error")
        if not isinstance(error, dict) or not isinstance(error.get("message"), str) or "result" in reply:
            raise Breach(f"expected a reply with an error of code and message, got {json.dumps(reply)[:300]}")
        return str(error.get("code"))

    def ended(self) -> list[dict[str, Any]]:
        """Return the messages up to the end of the connection, which must come."""
        messages = []
        while True:
            try:
                messages.append(self.read())
            except Closed:
                return messages

    def close(self) -> None:
        self.sock.close()

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.sock.recv(size - len(data))
            except TimeoutError as error:
                raise Breach(f"nothing came for {SECONDS:g} s") from error
            except OSError as error:
                raise Closed(str(error)) from error
            if not part:
                raise Closed("end of the stream")
            data += part
        return data
