# SPDX-License-Identifier: AGPL-3.0-or-later
"""The token bucket of the enrolment server."""

from __future__ import annotations

from odyssey.security.ratelimit import RateLimiter, rate_key


def test_a_burst_passes_then_the_rate_holds() -> None:
    limiter = RateLimiter(burst=3, per_minute=60, addresses=10)
    assert [limiter.wait("a", 0.0) for _ in range(3)] == [0, 0, 0]
    assert limiter.wait("a", 0.0) == 1.0
    assert limiter.wait("a", 0.5) == 0.5
    assert limiter.wait("a", 1.0) == 0
    assert limiter.wait("a", 1.0) == 1.0


def test_one_address_does_not_slow_another() -> None:
    limiter = RateLimiter(burst=1, per_minute=1, addresses=10)
    assert limiter.wait("a", 0.0) == 0
    assert limiter.wait("a", 0.0) > 0
    assert limiter.wait("b", 0.0) == 0


def test_a_long_rest_gives_no_more_than_the_burst() -> None:
    limiter = RateLimiter(burst=2, per_minute=60, addresses=10)
    limiter.wait("a", 0.0)
    assert [limiter.wait("a", 9999.0) == 0 for _ in range(3)] == [True, True, False]


def test_memory_is_bounded_and_the_busiest_is_remembered() -> None:
    limiter = RateLimiter(burst=1, per_minute=1, addresses=2)
    limiter.wait("busy", 0.0)
    for number in range(50):
        limiter.wait(f"x{number}", 0.0)
        assert limiter.wait("busy", 0.0) > 0


def test_an_ipv6_site_is_one_address() -> None:
    assert rate_key("2001:db8::1") == rate_key("2001:db8::ffff:2") != rate_key("2001:db8:0:1::1")
    assert rate_key("::ffff:192.0.2.1") == rate_key("192.0.2.1")
    assert rate_key("fe80::1%eth0") == "fe80::/64"
    assert rate_key("unix") == "unix"
