# SPDX-License-Identifier: AGPL-3.0-or-later
"""One-time join tokens: `ODY1-<SHA-256 of the CA certificate, hex>-<secret of 160 bit, base32>`.

The first part lets the joining side pin the CA before it trusts anything; the second lets us know the joining side.
Only a hash of the secret is stored. A plain SHA-256 is enough: a random secret of 160 bit cannot be guessed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from odyssey.security.ca import CaError, subject_uri
from rdmp.enrolment import ROLES

DEFAULT_LIFETIME = 3600.0
LONGEST_LIFETIME = 7 * 86400.0
KEPT_AFTER_EXPIRY = 86400.0
"""Seconds for which an expired token is remembered, so that its use is refused with the true reason."""

_SECRET_BYTES = 20
_FORM = re.compile(r"ODY1-([0-9a-f]{64})-([A-Z2-7]{32})")


class TokenRefused(Exception):
    """A token is not accepted; `code` is for programs, the text says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is stored of a token. Times are seconds since the epoch (UTC)."""

    id: str
    digest: str
    role: str
    name: str
    created: float
    expires: float
    used: float | None = None
    used_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The document of key `token/<id>`."""
        return {
            "id": self.id,
            "digest": self.digest,
            "role": self.role,
            "name": self.name,
            "created": self.created,
            "expires": self.expires,
            "used": self.used,
            "usedBy": self.used_by,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TokenRecord:
        """The inverse of `to_json`. Raises KeyError for a document that is not one of ours."""
        return cls(
            id=document["id"],
            digest=document["digest"],
            role=document["role"],
            name=document["name"],
            created=document["created"],
            expires=document["expires"],
            used=document["used"],
            used_by=document["usedBy"],
        )


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token: the only place where its text exists."""

    text: str
    id: str
    role: str
    name: str
    expires: float


class TokenStore(ABC):
    """Where token records live (key `token/<id>`)."""

    @abstractmethod
    async def add(self, record: TokenRecord) -> None:
        """Store a new record; durable when it returns."""

    @abstractmethod
    async def find(self, token_id: str) -> TokenRecord | None:
        """The record, or None."""

    @abstractmethod
    async def mark_used(self, token_id: str, used: float, used_by: str) -> bool:
        """Set `used` if it is not set yet, by compare-and-set; durable when it returns.

        Returns False if somebody else came first or the record is gone.
        """

    @abstractmethod
    async def purge(self, expired_before: float) -> int:
        """Remove the records that expired before that time; returns how many."""


class MemoryTokenStore(TokenStore):
    """Records in this process only, for tests and for tools that live as long as their tokens."""

    def __init__(self) -> None:
        self._records: dict[str, TokenRecord] = {}

    async def add(self, record: TokenRecord) -> None:
        self._records[record.id] = record

    async def find(self, token_id: str) -> TokenRecord | None:
        return self._records.get(token_id)

    async def mark_used(self, token_id: str, used: float, used_by: str) -> bool:
        record = self._records.get(token_id)
        if record is None or record.used is not None:
            return False
        self._records[token_id] = replace(record, used=used, used_by=used_by)
        return True

    async def purge(self, expired_before: float) -> int:
        old = [record.id for record in self._records.values() if record.expires < expired_before]
        for token_id in old:
            del self._records[token_id]
        return len(old)


class JoinTokens:
    """Makes tokens and accepts each once."""

    def __init__(
        self, store: TokenStore, cluster: str, ca_fingerprint: str, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives seconds since the epoch; `ca_fingerprint` is `CertificateAuthority.fingerprint`."""
        self._store = store
        self._cluster = cluster
        self._fingerprint = ca_fingerprint
        self._clock = clock

    async def create(self, role: str, name: str, lifetime: float = DEFAULT_LIFETIME) -> IssuedToken:
        """Make a token with which `role`/`name` may join once within `lifetime` seconds. Raises TokenRefused."""
        if role not in ROLES:
            raise TokenRefused("role", f"no token for role {role!r}: allowed are {', '.join(ROLES)}")
        try:
            subject_uri(self._cluster, role, name)
        except CaError as error:
            raise TokenRefused("name", str(error)) from error
        if not 1 <= lifetime <= LONGEST_LIFETIME:
            raise TokenRefused("ttl", f"lifetime {lifetime:g} s is not allowed: from 1 s to {LONGEST_LIFETIME:g} s")
        now = self._clock()
        await self._store.purge(now - KEPT_AFTER_EXPIRY)
        secret = secrets.token_bytes(_SECRET_BYTES)
        digest = hashlib.sha256(secret).hexdigest()
        record = TokenRecord(_token_id(digest), digest, role, name, created=now, expires=now + lifetime)
        await self._store.add(record)
        text = f"ODY1-{self._fingerprint}-{base64.b32encode(secret).decode()}"
        return IssuedToken(text, record.id, role, name, record.expires)

    async def check(self, text: str, role: str, name: str) -> TokenRecord:
        """The record of a token that `role`/`name` may use now. Uses nothing up. Raises TokenRefused."""
        fingerprint, secret = split_token(text)
        if not hmac.compare_digest(fingerprint, self._fingerprint):
            raise TokenRefused("cluster", "this token belongs to another cluster (its CA fingerprint is not ours)")
        digest = hashlib.sha256(secret).hexdigest()
        record = await self._store.find(_token_id(digest))
        if record is None or not hmac.compare_digest(record.digest, digest):
            raise TokenRefused("unknown", f"this token is not known here; {_another(role, name)}")
        if (record.role, record.name) != (role, name):
            raise TokenRefused(
                "mismatch", f"this token is for {record.role}/{record.name}, not for {role}/{name}: nothing was issued"
            )
        if record.used is not None:
            raise _already_used(record)
        if self._clock() >= record.expires:
            raise TokenRefused("expired", f"this token expired at {_time_text(record.expires)}; {_another(role, name)}")
        return record

    async def use(self, record: TokenRecord, by: str) -> None:
        """Use the token up, in favour of the peer `by`. Raises TokenRefused if another came first."""
        if not await self._store.mark_used(record.id, self._clock(), by):
            raise _already_used(await self._store.find(record.id) or record)


def split_token(text: str) -> tuple[str, bytes]:
    """CA fingerprint (hex) and secret of a token. Raises TokenRefused for anything that is no token."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise TokenRefused("malformed", "this is no join token: it must look like ODY1-<64 hex digits>-<32 letters>")
    return match.group(1), base64.b32decode(match.group(2))


def _token_id(digest: str) -> str:
    """A record is found by part of the hash, so a look-up tells nothing about the secret."""
    return digest[:32]


def _already_used(record: TokenRecord) -> TokenRefused:
    when = f" at {_time_text(record.used)}" if record.used is not None else ""
    by = f" by {record.used_by}" if record.used_by else ""
    return TokenRefused(
        "used",
        f"this token was already used{when}{by}; {_another(record.role, record.name)}. "
        f"If it was not you who used it, somebody else holds a certificate for {record.name}",
    )


def _another(role: str, name: str) -> str:
    return f"make another with `odysseyctl host join {name}`" if role == "agent" else "make another"


def _time_text(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
