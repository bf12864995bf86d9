# SPDX-License-Identifier: AGPL-3.0-or-later
"""How what a switch holds differs from what it should hold, entry by entry and in words.  Pure."""

from __future__ import annotations

from typing import Any, Literal

from controller import texts
from controller.changes import Change, FlowChange, GroupChange, difference
from controller.compiler import Compilation
from controller.flows import FlowEntry, TableSet
from controller.wording import entry_json

Json = dict[str, Any]
What = Literal["missing", "unexpected", "changed"]


def differences(switch: str, actual: TableSet, compilation: Compilation) -> list[Json]:
    """Return every entry, group and meter that is missing, unexpected or other than it should be.

    A changed one tells what it is (``found``) and what it should be; one whose cookie alone differs belongs to another
    version of its document.
    """
    target = compilation.tables.get(switch, TableSet())
    found = [_one(switch, change, actual, compilation) for change in difference(actual, target)]
    return sorted(found, key=lambda one: (one["table"] is None, one["table"], -(one["priority"] or 0), one["match"]))


def _one(switch: str, change: Change, actual: TableSet, compilation: Compilation) -> Json:
    if isinstance(change, FlowChange):
        return _entry(switch, change, actual.entries.get(change.entry.key), compilation)
    what: What = {"+": "missing", "~": "changed", "-": "unexpected"}[change.op]  # type: ignore[assignment]
    kind = "group" if isinstance(change, GroupChange) else "meter"
    found = None
    if isinstance(change, GroupChange) and change.op == "~":
        found = texts.group_text(actual.groups[change.group.group])
    elif not isinstance(change, GroupChange) and change.op == "~":
        found = texts.meter_text(actual.meters[change.meter.meter])
    return {
        "what": what,
        "kind": kind,
        "table": None,
        "priority": None,
        "match": texts.change_text(change),
        "actions": "",
        "owner": "",
        "tableName": "",
        "meaning": "",
        "found": found,
    }


def _entry(switch: str, change: FlowChange, found: FlowEntry | None, compilation: Compilation) -> Json:
    if change.op == "-":
        what: What = "unexpected"
    else:
        what = "missing" if found is None else "changed"
    words: Json = {"what": what, "kind": "entry", **entry_json(switch, change.entry, compilation), "found": None}
    if what == "changed" and found is not None:
        owner = compilation.owner_name(found.owner)
        words["found"] = f"{texts.actions_text(found.actions)} ({owner}, cookie {found.cookie:#018x})"
    return words
