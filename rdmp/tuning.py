# SPDX-License-Identifier: AGPL-3.0-or-later
"""Settings of a whole process that has thousands of connections."""

from __future__ import annotations

import gc
from asyncio import sslproto

TLS_BUFFER_BYTES = 16384
COLLECT = (50_000, 50, 100)


def small_buffers() -> None:
    """Make asyncio's TLS connections take less memory; called by whoever is about to make one.

    asyncio gives each a read buffer of 256 KiB (``asyncio.sslproto.SSLProtocol.max_size``), whatever it reads: 10,000
    idle peers would take 3 GiB.  A TLS record has at most 16 KiB (RFC 8446, section 5.1), so this is enough for one.
    """
    sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES


def collect_rarely() -> None:
    """Search for garbage cycles less often; a program that serves many connections calls it once.

    Each connection is some sixty objects that live long, and messages leave few cycles. With Python's own thresholds
    (700, 10, 10) the collector walks all of them again and again: a third of the processor time of 4,000 peers.
    """
    gc.set_threshold(*COLLECT)
