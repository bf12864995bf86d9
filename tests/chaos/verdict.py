# SPDX-License-Identifier: AGPL-3.0-or-later
"""The invariants, over the worlds, the callers' notes, the journals and the store.  Each returns violations as text."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.world import PREPARED, REMOVED, read

Lines = Sequence[tuple[str, str]]
OVER = ("committed", "aborted")


def notes(folder: Path) -> list[list[str]]:
    """Return the words of each line that a caller noted."""
    path = folder / "notes"
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [line.split() for line in whole.splitlines()]


def acknowledged(folders: Iterable[Path]) -> tuple[dict[str, str], list[str]]:
    """Return what callers were told of each transaction, and where two answers differ."""
    told: dict[str, str] = {}
    faults = []
    for folder in folders:
        for words in notes(folder):
            if words[0] == "answer" and told.setdefault(words[1], words[2]) != words[2]:
                faults.append(f"{words[1]}: a caller was told {told[words[1]]} and later {words[2]}")
    return told, faults


def world_faults(name: str, lines: Lines, told: Mapping[str, str]) -> list[str]:
    """Return what may never stand in a world, at any moment: a thing made twice, made again after its removal, a
    stage of an aborted transaction, the removal of a committed one."""
    faults: list[str] = []
    things: dict[str, list[str]] = {}
    for tx, thing in lines:
        before = things.setdefault(tx, [])
        if thing in before:
            faults.append(f"{name}: {tx}: {thing} twice")
        if REMOVED in before:
            faults.append(f"{name}: {tx}: {thing} after its removal")
        if thing == REMOVED and set(before) - {PREPARED}:
            faults.append(f"{name}: {tx}: removed after a stage")
        before.append(thing)
    for tx, state in told.items():
        seen = things.get(tx, [])
        if state == "committed" and REMOVED in seen:
            faults.append(f"{name}: {tx}: acknowledged as committed and removed")
        if state == "aborted" and set(seen) - {PREPARED, REMOVED}:
            faults.append(f"{name}: {tx}: acknowledged as aborted and carried out")
    return faults


def records(store: Path) -> dict[str, dict[str, Any]]:
    """Return the decision records of a store, while it is used or not."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=5)) as connection:
        rows = connection.execute("SELECT value FROM document WHERE key GLOB 'tx/*'").fetchall()
    return {entry["id"]: entry for entry in (json.loads(value) for (value,) in rows)}


def unfinished(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the transactions that are not finished."""
    return [tx for tx, one in found.items() if not one["finished"]]


def end_faults(
    found: Mapping[str, Mapping[str, Any]],
    worlds: Mapping[str, Lines],
    told: Mapping[str, str],
    asked: Iterable[str],
) -> list[str]:
    """Return what is wrong when all is healed and over."""
    faults = [f"{tx}: in doubt for ever: {found[tx]['state']}, not finished" for tx in unfinished(found)]
    faults += [f"{tx}: its caller was never answered" for tx in asked if tx not in told]
    for tx, state in told.items():
        if tx not in found:
            faults.append(f"{tx}: acknowledged as {state} and lost")
        elif found[tx]["state"] != state:
            faults.append(f"{tx}: acknowledged as {state}, stored as {found[tx]['state']}")
    for name, lines in worlds.items():
        made: dict[str, list[str]] = {}
        for tx, thing in lines:
            made.setdefault(tx, []).append(thing)
        for tx in made.keys() - found.keys():
            faults.append(f"{name}: {tx}: effects of a transaction that nobody decided")
        for tx, one in found.items():
            faults += _effects(name, tx, one, made.get(tx, []))
    return faults


def _effects(name: str, tx: str, record: Mapping[str, Any], made: Sequence[str]) -> list[str]:
    operation = record["participants"].get(name)
    if record["state"] == "committed" and operation is not None:
        wanted = [PREPARED, *(stage for stage in record["stages"] if stage in operation["stages"])]
        return [] if list(made) == wanted else [f"{name}: {tx}: committed, its effects are {made}, not {wanted}"]
    allowed: tuple[list[str], ...] = ([], [PREPARED, REMOVED]) if operation is not None else ([],)
    return [] if list(made) in allowed else [f"{name}: {tx}: {record['state']}, its effects are {made}"]


def journal_faults(name: str, journal: Path) -> list[str]:
    """Return the transactions that a participant's journal still holds open."""
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=5)) as connection:
        rows = connection.execute("SELECT id, phase FROM tx").fetchall()
    return [f"{name}: {tx}: its journal says {phase}" for tx, phase in rows if phase not in OVER]


def worlds_of(folder: Path, names: Iterable[str]) -> dict[str, Lines]:
    """Return the lines of each participant's world."""
    return {name: read(folder / name / "disk/world") for name in names}
