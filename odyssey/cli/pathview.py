# SPDX-License-Identifier: AGPL-3.0-or-later
"""The way of a connection through the fabric, as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from odyssey.cli.text import columns, plural

Hop = Mapping[str, Any]
Line = tuple[str, str | None]
"""A line and its colour."""

_INDENT = "  "


def path_lines(answer: Mapping[str, Any]) -> Iterator[Line]:
    """The verdict, the way there and back, and what would have to be done where it stops."""
    source, target = answer["from"], answer["to"]
    what = f"{answer['protocol']} {answer['port']}"
    verdict = "open" if answer["open"] else "closed"
    yield f"{_named(source)} -> {_named(target)}, {what}: {verdict}", "green" if answer["open"] else "red"
    for note in answer.get("notes", []):
        yield f"{_INDENT}({note})", None
    yield from _leg("There", answer["there"])
    if answer.get("back") is not None:
        yield from _leg("Back", answer["back"])
    if answer.get("members"):
        yield "", None
        yield "Members of the service", None
        rows = [
            (f"{_INDENT}{one['node']}", plural(one["slots"], "slot"), "open" if one["open"] else "closed")
            for one in answer["members"]
        ]
        yield from ((line, None) for line in columns(rows))


def _named(end: Mapping[str, Any]) -> str:
    if end.get("service"):
        return f"{end['service']} (service of {end['network']}, here {end['name']})"
    return str(end["name"]) if end["kind"] == "border" else f"{end['name']} ({end['address']})"


def _leg(title: str, leg: Mapping[str, Any]) -> Iterator[Line]:
    yield "", None
    yield title, None
    rows = [_row(hop) for hop in leg["hops"]]
    lines = columns([(f"{_INDENT}{row[0]}", row[1], row[2]) for row in rows])
    for hop, line in zip(leg["hops"], lines, strict=True):
        yield line, None
        if hop["kind"] == "entry":
            yield f"{_INDENT * 3}{_rule(hop)}", "bright_black"
    if leg["stop"] is not None:
        yield from _stop(leg["stop"])


def _stop(stop: Mapping[str, Any]) -> Iterator[Line]:
    place = f" in {stop['switch']}" if stop.get("switch") else ""
    yield f"{_INDENT}STOPS HERE{place}: {stop['text']}", "red"
    if stop.get("remedy"):
        yield f"{_INDENT}To open it: {stop['remedy']}", "yellow"


def _row(hop: Hop) -> tuple[str, str, str]:
    """Place, what happens there, and details."""
    if hop["kind"] == "entry":
        table = f"table {hop['table']}" + (f" {hop['tableName']}" if hop["tableName"] else "")
        return f"{hop['switch']}", table, f"{hop['meaning']} [{hop['owner']}]"
    if hop["kind"] == "port":
        return f"{hop['switch']} port {hop['port']}", "comes in" if hop["direction"] == "in" else "goes out", _port(hop)
    if hop["kind"] == "border":
        return f"{hop['border']}", hop["what"], f"{hop['address']}, {hop['mac']}{_vlan(hop)}"
    return f"{hop['node']}", hop["what"], _link(hop)


def _link(hop: Hop) -> str:
    place = f"by {hop['link']} on {hop['host']} {hop['nic']}" if "link" in hop else f"on {hop['host']}"
    towards = f", to {hop['towards']}" if "towards" in hop else ""
    return f"{place}, {hop['mac']}{towards}{_vlan(hop)}"


def _port(hop: Hop) -> str:
    words = [word for word in (hop.get("name"), "up" if hop["up"] else "down") if word]
    link = f", cable to {hop['link']['switch']} port {hop['link']['port']}" if hop.get("link") else ""
    return f"{', '.join(words)}{_vlan(hop)}{link}"


def _vlan(hop: Hop) -> str:
    if "vlan" not in hop:
        return ""
    return ", untagged" if hop["vlan"] is None else f", VLAN {hop['vlan']}"


def _rule(hop: Hop) -> str:
    counted = "" if hop.get("packets") is None else f"  ({plural(hop['packets'], 'packet')})"
    return f"priority {hop['priority']}: {hop['match'] or 'everything'} -> {hop['actions']}{counted}"
