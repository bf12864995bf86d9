# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where an RDMP server listens, as a text: ``tls:host:port``, ``unix:/path`` or, for development, ``tcp:host:port``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place to connect to. ``path`` is for ``unix``, ``host`` and ``port`` for the others."""

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``unix:/path``, ``tls:host:port`` or ``tcp:host:port`` (IPv6 hosts in brackets); raises ValueError."""
        kind, _, rest = text.partition(":")
        if kind == "unix" and rest.startswith("/"):
            return cls("unix", path=rest)
        host, _, port = rest.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if kind in ("tls", "tcp") and host and port.isdecimal() and 0 < int(port) < 65536:
            return cls(kind, host=host, port=int(port))
        raise ValueError(
            f"{text!r} is no endpoint; use unix:/path, tls:host:port or tcp:host:port (loopback, for development)"
        )

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}:{host}:{self.port}"
