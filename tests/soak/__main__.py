# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m tests.soak --minutes N``: see ``run.py``; exits with 1 if anything grew or failed."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from tests.soak.run import soak_for


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the choices that switches make")
    parser.add_argument("--report", type=Path, help="write samples and faults as JSON into this file")
    arguments = parser.parse_args()
    os.nice(10)
    result = asyncio.run(soak_for(arguments.minutes * 60, arguments.seed))
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(result.to_json(), indent=1) + "\n")
    for one in result.samples:
        print(
            f"{one.second:7.0f} s {one.reconnects:8d} reconnects {one.threads:4d} threads "
            f"{one.descriptors:4d} descriptors {one.rss:8d} KiB"
        )
    print(f"{result.reconnects} reconnects, {result.silent} of them fell silent")
    for fault in result.faults:
        print(f"fault: {fault}")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
