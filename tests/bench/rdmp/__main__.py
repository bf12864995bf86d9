# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m tests.bench.rdmp [--report FILE] [--quick] [--only PART]``: measure, print, and write the report."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.bench.measure import processor
from tests.bench.rdmp import growth, peers, report, rpc, transactions
from tests.bench.rdmp.fleet import Pki
from tests.bench.rdmp.support import QUICK, BenchError, Json, Sizes, load, raise_file_limit, say

PARTS = ("transactions", "peers", "rpc", "growth")


def main() -> int:
    """Measure; 0 when done, whatever the numbers are, 255 if it could not be done."""
    parser = argparse.ArgumentParser(prog="tests.bench.rdmp", description="RDMP's speed and size beside its peers.")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes; docs/benchmarks.md is not written")
    parser.add_argument("--only", action="append", choices=PARTS, help="only these parts; docs/ is not written")
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"), help="where the data goes (default %(default)s)")
    parser.add_argument("--fleet", type=int, action="append", metavar="N", help="only fleets of these sizes")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    if options.fleet:
        sizes = replace(sizes, fleets=tuple(options.fleet))
    raise_file_limit()
    try:
        with tempfile.TemporaryDirectory(prefix="odyssey-bench-", dir=options.disk) as folder:
            result = measure(Path(folder), sizes, options.only or PARTS)
    except (BenchError, OSError) as error:
        print(f"bench-rdmp: {error}", file=sys.stderr)
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


def measure(folder: Path, sizes: Sizes, wanted: tuple[str, ...] | list[str]) -> Json:
    """All wanted parts, and where they were measured."""
    pki = Pki(folder / "pki")
    machine = {
        "cores": os.cpu_count(),
        "processor": processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystem": _filesystem(folder),
        "load_before": load(),
    }
    parts: dict[str, Callable[[], object]] = {
        "transactions": lambda: transactions.measure(folder, pki, sizes),
        "peers": lambda: peers.measure(folder, sizes),
        "rpc": lambda: rpc.measure(folder, pki, sizes),
        "growth": lambda: growth.measure(folder, pki, sizes),
    }
    begun = time.monotonic()
    result: Json = {"date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC", "machine": machine}
    for name in PARTS:
        if name in wanted:
            say(f"{name} (load {load():.1f})")
            result[name] = parts[name]()
    machine["load_after"] = load()
    result["seconds"] = round(time.monotonic() - begun, 1)
    return result


def _filesystem(folder: Path) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        done = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.split()[0]
    return "unknown file system"


if __name__ == "__main__":
    sys.exit(main())
