# SPDX-License-Identifier: AGPL-3.0-or-later
"""python -m tests.fuzz --seconds N [--target NAME] [--json]: each target in turn, with its share of the time."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.targets import TARGETS

_START_SECONDS = 120  # for the instrumentation and the last input, on a busy machine


def fuzz(target: str, seconds: int, folder: Path) -> dict[str, Any]:
    """Fuzz one target; returns executions, coverage, and the end of the output if something was found."""
    command = (sys.executable, "-m", "tests.fuzz.engine", target, str(seconds), str(folder / target))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + _START_SECONDS)
    output = done.stdout + done.stderr
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
    report: dict[str, Any] = {"target": target, "executions": int(executed[1]) if executed else 0}
    report["found"] = [] if done.returncode == 0 else [output[-4000:], *(str(path) for path in folder.glob("found-*"))]
    return report


def main() -> int:
    """Run and print; exit code 1 if something was found."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description="coverage-guided fuzzing of RDMP (atheris)")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--target", choices=list(TARGETS), action="append")
    parser.add_argument("--keep", type=Path, default=None, help="corpus and findings stay in this folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen = options.target or list(TARGETS)
    with tempfile.TemporaryDirectory(prefix="odyssey-fuzz-") as name:
        folder = (options.keep or Path(name)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        reports = [fuzz(target, max(1, options.seconds // len(chosen)), folder) for target in chosen]
    for report in reports:
        text = "\n".join(["", *report["found"]])
        line = f"{report['target']:10} {report['executions']:9} executions{text}"
        print(json.dumps(report) if options.json else line)
    return 1 if any(report["found"] or not report["executions"] for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
