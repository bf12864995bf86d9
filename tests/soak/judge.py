# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a process holds, and whether it grows. The judgement is pure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WARM_UP = 0.25
"""The part of a run that is not judged: caches fill, arenas grow to the size of the work."""

SPARE = 2
"""Threads and descriptors that may differ between two quiet moments: an executor's, a log's."""

RSS_GROWTH = 0.03
"""By which part of itself the resident memory may grow from the first third to the last of what is judged."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One quiet moment, when no switch is connected; `rss` in KiB."""

    second: float
    reconnects: int
    threads: int
    descriptors: int
    rss: int


def sample(pid: int, second: float, reconnects: int) -> Sample:
    """Look at a process. Raises OSError if it is gone."""
    status = Path(f"/proc/{pid}/status").read_text()
    threads, rss = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("Threads", "VmRSS"))  # type: ignore[index]
    return Sample(second, reconnects, threads, len(list(Path(f"/proc/{pid}/fd").iterdir())), rss)


def judge(samples: Sequence[Sample]) -> list[str]:
    """Return what grew, in words."""
    judged = samples[int(len(samples) * WARM_UP) :]
    if len(judged) < 3:
        return [f"{len(samples)} quiet moments are too few for a judgement: run for longer"]
    first, last = judged[: len(judged) // 3], judged[-(len(judged) // 3) :]
    faults = []
    for name in ("threads", "descriptors"):
        before, after = (statistics.median(getattr(one, name) for one in part) for part in (first, last))
        if after > before + SPARE:
            faults.append(f"{name} grew from {before:g} to {after:g}")
    before, after = (statistics.median(one.rss for one in part) for part in (first, last))
    if after > before * (1 + RSS_GROWTH):
        faults.append(f"resident memory grew from {before:g} to {after:g} KiB")
    return faults
