# SPDX-License-Identifier: AGPL-3.0-or-later
"""The course of one transaction, step by step. Values in, values out."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from odyssey.state.view import Entry


def trace(entry: Entry) -> Sequence[Mapping[str, Any]]:
    """Each step with its time, `since` (seconds since the transaction was created) and `took` (since the step before).

    Times are of the orchestrator's clock: when it sent or heard something. What a power cut took is not in it.
    """
    ends = [{"at": entry.finished, "event": "finished"}] if entry.finished else []
    steps = [{"at": entry.created, "event": "created"}, *entry.hops, *ends]
    moments = [datetime.datetime.fromisoformat(step["at"]) for step in steps]
    return [
        {
            **step,
            "since": (moment - moments[0]).total_seconds(),
            "took": (moment - moments[max(0, place - 1)]).total_seconds(),
        }
        for place, (step, moment) in enumerate(zip(steps, moments, strict=True))
    ]
