# SPDX-License-Identifier: AGPL-3.0-or-later
"""A short run of ``make soak-controller``: hundreds of reconnects, and afterwards nothing is left of them."""

from __future__ import annotations

from tests.soak.run import soak_for

SECONDS = 20.0


async def test_hundreds_of_reconnects_leave_no_thread_and_no_descriptor_and_every_switch_is_whole() -> None:
    result = await soak_for(SECONDS, busy=6.0, judged=False)
    assert result.faults == []
    assert result.reconnects > 100
    first, last = result.samples[0], result.samples[-1]
    assert last.threads <= first.threads and last.descriptors <= first.descriptors + 2
