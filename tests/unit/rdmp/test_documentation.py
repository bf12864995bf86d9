# SPDX-License-Identifier: AGPL-3.0-or-later
"""docs/rdmp.md says what the code does: state tables, limits, messages, error codes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from rdmp import coordinator, messages, participant_table
from rdmp.limits import Limits

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/rdmp.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    table = TEXT.split(f"{heading}\n", 1)[1].split("\n|", 1)[1].split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_tables_of_the_machines() -> None:
    for heading, module in (
        ("### Coordinator: states of one transaction", coordinator),
        ("### Participant: states of one transaction", participant_table),
    ):
        written = {(phase, step, target) for phase, step, target, _ in rows(heading)}
        table = module.TRANSITIONS
        coded = {(phase.value, step.value, row[step].value) for phase, row in table.items() for step in row}
        assert written == coded


def test_the_limits() -> None:
    written = {name.strip("`"): float(default) for name, default, _ in rows("## Limits")}
    assert written == dataclasses.asdict(Limits())


def test_the_messages() -> None:
    written = {name for row in rows("## Messages") for name in re.findall(r"`(\w+)`", row[0])}
    assert written == {cls.TYPE for cls in messages.Message.__subclasses__()}


def test_the_error_codes() -> None:
    written = {name for row in rows("## Error codes") for name in re.findall(r"`(\w+)`", row[0])}
    source = "".join(path.read_text() for path in (ROOT / "rdmp").glob("*.py") if path.name != "enrolment.py")
    patterns = (
        r'(?:Error|FrameError|RpcError|PeerAbsent|RpcTimeout|refuse|_error)\(\s*(?:peer, |live\.peer, )?"([a-z_]+)"',
        r'return "([a-z_]+)", \(?\s*f?"',
        r'"code": "([a-z_]+)"',
    )
    used = {code for pattern in patterns for code in re.findall(pattern, source)}
    assert written == used
