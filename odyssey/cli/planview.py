# SPDX-License-Identifier: AGPL-3.0-or-later
"""A plan for people: what changes (`+ ~ -`), in which steps, and what that means for each switch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from odyssey.cli.output import STYLES, Column, Output
from odyssey.cli.text import cell, columns, plural

_SWITCHES = (
    Column("SWITCH", "switch"),
    Column("BEFORE", "before", right=True),
    Column("AFTER", "after", right=True),
    Column("+", "add", right=True),
    Column("-", "remove", right=True),
    Column("CAPACITY", "capacity", right=True),
)
_SETTINGS = (
    Column("SWITCH", "switch"),
    Column("+", "add", right=True),
    Column("~", "change", right=True),
    Column("-", "remove", right=True),
)
_STEPS = (
    Column("STEP", "number", right=True),
    Column("WHAT", "title"),
    Column("STAGES", "stages"),
    Column("PARTICIPANTS", "participants"),
)


def show_plan(out: Output, answer: Mapping[str, Any], *, flows: bool) -> None:
    """Write the plan in `answer` to stdout."""
    plan: Mapping[str, Any] = answer.get("plan") or {}
    changes: Sequence[Mapping[str, Any]] = plan.get("changes") or []
    index = plan.get("index", answer.get("index"))
    if not changes:
        out.line(f"No change. The state is at index {index}.")
        return
    _show_changes(out, changes)
    steps: Sequence[Mapping[str, Any]] = plan.get("steps") or []
    if steps:
        out.heading(plural(len(steps), "step"))
        out.table(_STEPS, [_step(number, step) for number, step in enumerate(steps, 1)], "")
    _show_switches(out, answer, flows=flows)
    _show_settings(out, answer, flows=flows)
    counts = {op: sum(change.get("op") == op for change in changes) for op in "+~-"}
    out.heading(f"{counts['+']} to add, {counts['~']} to change, {counts['-']} to remove.")
    out.line(f"Index {index}: the same command with --index {index} does this plan or nothing.")


def _show_changes(out: Output, changes: Sequence[Mapping[str, Any]]) -> None:
    rows = [tuple(cell(change.get(key) or " ") for key in ("kind", "name", "detail")) for change in changes]
    for change, text in zip(changes, columns(rows), strict=True):
        op = str(change.get("op"))
        out.line(f"{op} {text}", STYLES.get(op))


def _step(number: int, step: Mapping[str, Any]) -> dict[str, Any]:
    participants = step.get("participants") or []
    return {
        "number": number,
        "title": step.get("title"),
        "stages": step.get("stages"),
        "participants": sorted(participants),
    }


def _show_switches(out: Output, answer: Mapping[str, Any], *, flows: bool) -> None:
    switches: Mapping[str, Mapping[str, Any]] = answer.get("switches") or {}
    if not switches:
        if answer.get("controller") is False:
            out.note("The controller is not connected, so the plan does not show what the switches get.")
        return
    out.heading("Switch entries")
    out.table(_SWITCHES, [{"switch": name, **counts} for name, counts in sorted(switches.items())], "")
    for name, notes in sorted((answer.get("notes") or {}).items()):
        for note in notes:
            out.note(f"{name}: {note}.")
    if not flows:
        return
    for name, counts in sorted(switches.items()):
        out.heading(name)
        for entry in counts.get("entries") or []:
            out.line(entry_text(entry), STYLES.get(str(entry.get("op"))))


def _show_settings(out: Output, answer: Mapping[str, Any], *, flows: bool) -> None:
    if answer.get("netconf") is False:
        out.note("odyssey-netconf is not connected, so the plan does not show what it sets on the switches.")
    settings: Mapping[str, Mapping[str, Any]] = answer.get("settings") or {}
    if not settings:
        return
    out.heading("Switch settings by NETCONF")
    out.table(_SETTINGS, [{"switch": name, **settings[name]} for name in sorted(settings)], "")
    for name in sorted(settings):
        for note in settings[name].get("notes") or []:
            out.note(f"{name}: {note}.")
    if not flows:
        return
    for name in sorted(settings):
        out.heading(name)
        for change in settings[name]["changes"]:
            out.line(setting_text(change), STYLES.get(str(change.get("op"))))
        if more := settings[name].get("more"):
            out.line(f"  and {more} more")


def setting_text(change: Mapping[str, Any]) -> str:
    """One setting of a switch: `+` set, `~` changed, `-` taken away; its path, and the values where there are any."""
    has, shall = change.get("has"), change.get("shall")
    values = " -> ".join(str(value) for value in (has, shall) if value is not None)
    return f"{change['op']} {change['path']}" + (f" = {values}" if values else "")


def entry_text(entry: Mapping[str, Any]) -> str:
    """One flow entry in the manner of `ovs-ofctl`."""
    parts = [f"table={entry.get('table')}", f"priority={entry.get('priority')}"]
    if match := joined(entry.get("match")):
        parts.append(match)
    text = f"{entry.get('op', ' ')} {','.join(parts)} actions={joined(entry.get('actions')) or 'drop'}"
    return f"{text}  ({entry['owner']})" if entry.get("owner") else text


def joined(value: Any) -> str:
    """A match or an action list as text, whether the controller gave text, a list or an object."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ",".join(_plain(item) for item in value)
    return str(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
