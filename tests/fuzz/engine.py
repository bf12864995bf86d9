# SPDX-License-Identifier: AGPL-3.0-or-later
"""One target under atheris in a process of its own: python -m tests.fuzz.engine TARGET SECONDS CORPUS."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["rdmp", "schemas"]):
    from tests.fuzz import targets


def main(target: str, seconds: int, corpus: Path) -> None:
    """Fuzz until the time is over; libFuzzer ends the process, with code 0 if nothing was found."""
    targets.quiet()
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(targets.seeds(target)):
        (corpus / f"seed-{number}").write_bytes(data)
    arguments = [
        sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=1024",
        "-print_final_stats=1", f"-artifact_prefix={corpus.parent}/found-{target}-", "-verbosity=0",
    ]  # fmt: skip
    atheris.Setup(arguments, targets.TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
