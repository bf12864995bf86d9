# SPDX-License-Identifier: AGPL-3.0-or-later
"""A token bucket for each address, in bounded memory. No clock: the caller gives the time."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

IPV6_SITE_PREFIX = 64
"""One IPv6 host owns a whole /64; it counts as one address."""


class RateLimiter:
    """Allows `burst` attempts at once and `per_minute` in the long run, for each address."""

    def __init__(self, burst: int, per_minute: float, addresses: int) -> None:
        """`addresses` bounds how many are remembered; the longest unused is forgotten first."""
        self._burst = float(burst)
        self._per_second = per_minute / 60.0
        self._addresses = addresses
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str, now: float) -> float:
        """Count one attempt at `now` (s, monotonic): 0 if it is allowed, else the seconds until one will be."""
        key = rate_key(address)
        left, seen = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - seen) * self._per_second)
        delay = 0.0 if left >= 1 else (1 - left) / self._per_second
        self._buckets[key] = (left - 1 if delay == 0 else left, now)
        while len(self._buckets) > self._addresses:
            self._buckets.popitem(last=False)
        return delay


def rate_key(address: str) -> str:
    """What counts as one address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, IPV6_SITE_PREFIX), strict=False))
