# SPDX-License-Identifier: AGPL-3.0-or-later
"""python -m tests.chaos --minutes M --seed S --json"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from pathlib import Path

from tests.chaos.run import chaos


def main() -> int:
    """Run and print the report; exit code 1 if an invariant was violated."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description="RDMP with real processes under real faults")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="order of the faults; random if not given")
    parser.add_argument("--keep", type=Path, default=None, help="work in this folder and leave it for reading")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args()
    if os.getuid() != 0:
        print("chaos: network namespaces and file systems need root", file=sys.stderr)
        return 2
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    report = chaos(60 * options.minutes, seed, options.keep)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for key, value in report.items():
            print(f"{key:10} {value}")
    return 1 if report["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
