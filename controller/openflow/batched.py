# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sends changes to a switch that takes no bundles, and waits until it holds them.

A barrier tells when a lot is done (OpenFlow 1.3.5, 7.3.8).  A switch whose barriers are not relied on answers them
early, while its hardware is still being programmed: there what it answers to questions for its entries counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from controller import texts
from controller.batches import Delivery, batches, phases
from controller.changes import Change, FlowChange
from controller.channel import ChannelError, FlowReading
from controller.flows import OUR_TAG

#: How long a switch may take until it shows what it was sent, and how long it is left alone between two looks.
SETTLE_SECONDS = 30.0
FIRST_LOOK_SECONDS = 0.05
LAST_LOOK_SECONDS = 2.0

_OURS = (OUR_TAG << 56, 0xFF << 56)  # cookie and mask


class Wire(Protocol):
    """What is needed of a channel."""

    @property
    def address(self) -> str:
        """Where the switch connects from."""

    async def send(self, changes: Sequence[Change]) -> None:
        """Send changes and a barrier, and wait for its answer; raises ChannelError if one was refused."""

    async def read_flows(self, cookie: int = 0, mask: int = 0) -> FlowReading:
        """Read the entries whose cookie agrees."""


async def apply(wire: Wire, changes: Sequence[Change], delivery: Delivery) -> None:
    """Make changes phase by phase, lot by lot; raises ChannelError, and then some of them may be made."""
    for phase in phases(changes):
        for lot in batches(phase, delivery.most):
            await wire.send(lot)
        if delivery.verified:
            await _settled(wire, phase)


async def _settled(wire: Wire, phase: Sequence[Change]) -> None:
    """Read the switch until it holds what a phase leaves; raises ChannelError after ``SETTLE_SECONDS``."""
    wanted = {change.entry.key: change for change in phase if isinstance(change, FlowChange)}
    pause = FIRST_LOOK_SECONDS
    waited = 0.0
    while wanted:
        reading = await wire.read_flows(*_OURS)
        held = {counted.entry.key: counted.entry for counted in reading.entries}
        missing = [one for key, one in wanted.items() if held.get(key) != (one.entry if one.op == "+" else None)]
        if not missing:
            return
        if waited >= SETTLE_SECONDS:
            count = f"{len(missing)} of {len(wanted)} confirmed changes do not show after {SETTLE_SECONDS:g} s"
            first = f"({missing[0].op}) {texts.change_text(missing[0])}"
            raise ChannelError(f"{wire.address}: {count}; the first: {first}")
        await asyncio.sleep(pause)
        waited += pause
        pause = min(2 * pause, LAST_LOOK_SECONDS)
