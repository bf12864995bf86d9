# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m tests.bench.fabric [--report FILE] [--quick] [--only PART]``: measure, print, and write the report."""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rdmp.tuning import collect_rarely
from tests.bench.fabric import commits, compiling, programming, reconnect, report, traffic
from tests.bench.fabric.support import QUICK, Json, Sizes
from tests.bench.measure import processor
from tests.bench.rdmp.support import BenchError, load, say
from tests.integration.controller_support import run

PARTS: dict[str, Callable[[Sizes], object]] = {
    "programming": programming.measure,
    "commits": commits.measure,
    "reconnect": reconnect.measure,
    "traffic": traffic.measure,
    "compiling": compiling.measure,
    "largest": compiling.largest,
}


def main() -> int:
    """Measure; 0 when done, whatever the numbers are, 255 if it could not be done."""
    parser = argparse.ArgumentParser(prog="tests.bench.fabric", description="The controller and its switches measured.")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes; docs/benchmarks.md is not written")
    parser.add_argument("--only", action="append", choices=PARTS, help="only these parts; docs/ is not written")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # switches are killed and emptied all the time
    collect_rarely()  # as the daemon does
    try:
        result = measure(QUICK if options.quick else Sizes(), options.only or list(PARTS))
    except (BenchError, OSError, AssertionError) as error:
        print(f"bench-fabric: {error}", file=sys.stderr)
        return 255
    result["quick"] = options.quick
    if options.report:
        options.report.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.only:
        print(json.dumps(result, indent=1))
        return 0
    if not options.quick:
        report.write(result)
    print(report.text(result))
    return 0


def measure(sizes: Sizes, wanted: Sequence[str]) -> Json:
    """All wanted parts, and where they were measured."""
    machine = {
        "cores": os.cpu_count(),
        "processor": processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "switch": "Open vSwitch " + run("ovs-vswitchd", "--version").split()[3],
        "load_before": load(),
    }
    begun = time.monotonic()
    result: Json = {"date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC", "machine": machine}
    for name, part in PARTS.items():
        if name in wanted:
            say(f"{name} (load {load():.1f})")
            result[name] = part(sizes)
    machine["load_after"] = load()
    result["seconds"] = round(time.monotonic() - begun, 1)
    return result


if __name__ == "__main__":
    sys.exit(main())
