# SPDX-License-Identifier: AGPL-3.0-or-later
"""Join tokens: their form, what is stored, and each reason for which one is refused."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from odyssey.security.tokens import (
    KEPT_AFTER_EXPIRY,
    JoinTokens,
    MemoryTokenStore,
    TokenRecord,
    TokenRefused,
    split_token,
)

FINGERPRINT = "ab" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> MemoryTokenStore:
    return MemoryTokenStore()


@pytest.fixture
def tokens(store: MemoryTokenStore, clock: Clock) -> JoinTokens:
    return JoinTokens(store, "lab", FINGERPRINT, clock)


async def test_a_token_pins_the_authority_and_keeps_its_secret(tokens: JoinTokens, store: MemoryTokenStore) -> None:
    token = await tokens.create("agent", "h1")
    assert re.fullmatch(rf"ODY1-{FINGERPRINT}-[A-Z2-7]{{32}}", token.text)
    fingerprint, secret = split_token(token.text)
    assert (fingerprint, len(secret)) == (FINGERPRINT, 20)
    record = await store.find(token.id)
    assert record is not None
    stored = json.dumps(record.to_json())
    assert token.text.rsplit("-", 1)[1] not in stored
    assert secret.hex() not in stored
    assert TokenRecord.from_json(json.loads(stored)) == record


async def test_a_token_is_good_once(tokens: JoinTokens) -> None:
    token = await tokens.create("agent", "h1")
    record = await tokens.check(token.text, "agent", "h1")
    await tokens.use(record, "192.0.2.11")
    with pytest.raises(TokenRefused, match=r"already used at .* by 192\.0\.2\.11.*odysseyctl host join h1") as refused:
        await tokens.check(token.text, "agent", "h1")
    assert refused.value.code == "used"


async def test_of_two_at_the_same_time_one_wins(tokens: JoinTokens) -> None:
    token = await tokens.create("agent", "h1")
    record = await tokens.check(token.text, "agent", "h1")
    results = await asyncio.gather(tokens.use(record, "a"), tokens.use(record, "b"), return_exceptions=True)
    assert [type(result) for result in results].count(TokenRefused) == 1
    assert results.count(None) == 1


async def test_an_expired_token_says_when_it_expired(tokens: JoinTokens, clock: Clock) -> None:
    token = await tokens.create("agent", "h1", lifetime=60)
    clock.now += 60
    with pytest.raises(TokenRefused, match=r"expired at 2027-01-15T08:01:00Z") as refused:
        await tokens.check(token.text, "agent", "h1")
    assert refused.value.code == "expired"


@pytest.mark.parametrize(("role", "name"), [("agent", "h2"), ("operator", "h1")])
async def test_another_name_or_role_is_refused_and_uses_nothing_up(tokens: JoinTokens, role: str, name: str) -> None:
    token = await tokens.create("agent", "h1")
    with pytest.raises(TokenRefused, match=f"for agent/h1, not for {role}/{name}"):
        await tokens.check(token.text, role, name)
    await tokens.check(token.text, "agent", "h1")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "malformed"),
        ("ODY1-abc", "malformed"),
        (f"ODY1-{FINGERPRINT}-{'A' * 32}\n", "malformed"),
        (f"ODY1-{'cd' * 32}-{'A' * 32}", "cluster"),
        (f"ODY1-{FINGERPRINT}-{'A' * 32}", "unknown"),
    ],
)
async def test_what_is_no_token_of_ours_is_refused(tokens: JoinTokens, text: str, code: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        await tokens.check(text, "agent", "h1")
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("role", "name", "lifetime", "code"),
    [
        ("orchestrator", "o1", 60, "role"),
        ("agent", "../x", 60, "name"),
        ("agent", "h1", 0, "ttl"),
        ("agent", "h1", 8 * 86400, "ttl"),
        ("agent", "h1", float("nan"), "ttl"),
    ],
)
async def test_tokens_that_must_not_exist(tokens: JoinTokens, role: str, name: str, lifetime: float, code: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        await tokens.create(role, name, lifetime)
    assert refused.value.code == code


async def test_old_records_go_when_a_new_token_is_made(
    tokens: JoinTokens, store: MemoryTokenStore, clock: Clock
) -> None:
    old = await tokens.create("agent", "h1", lifetime=60)
    clock.now += 60 + KEPT_AFTER_EXPIRY + 1
    new = await tokens.create("agent", "h1", lifetime=60)
    assert await store.find(old.id) is None
    assert await store.find(new.id) is not None
