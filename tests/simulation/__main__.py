# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m tests.simulation``: run many seeds, or one with its trace.  Exit code 1 if anything was violated."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from tests.simulation.run import Tally, run_chunks, trace

_ALL = 1_000_000  # lines: a whole trace


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--trace", type=int, metavar="SEED", help="run one seed and print all that happens")
    options = parser.parse_args()
    if options.trace is not None:
        lines = trace(options.trace, lines=_ALL)
        print("\n".join(lines))
        return int(any("VIOLATION" in line for line in lines[-1:]))
    began = time.monotonic()
    tally = Tally()
    for part in run_chunks(options.first, options.seeds, options.jobs):
        tally.add(part)
        if sys.stderr.isatty():
            print(f"\r{tally.seeds} seeds, {len(tally.failures)} violations", end="", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    report = {**tally.report(), "seconds": round(seconds, 1), "seeds_per_second": round(tally.seeds / seconds)}
    print(json.dumps(report, indent=2) if options.json else _text(report))
    return int(bool(tally.failures))


def _text(report: dict[str, Any]) -> str:
    """Return the report for people."""
    covered = report["transitions_covered"]
    lines = [
        f"seeds                {report['seeds']} ({report['seeds_per_second']}/s)",
        f"steps                {report['steps']}",
        f"crashes              {report['crashes']}",
        f"cuts                 {report['cuts']}",
        f"violations           {len(report['violations'])}",
        f"transitions_covered  {covered['covered']} of {covered['of']}",
        *(f"  not covered: {move}" for move in covered["not_covered"]),
    ]
    for one in report["violations"]:
        lines += ["", f"seed {one['seed']}: {one['what']}", *(f"  {line}" for line in one["trace"])]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
