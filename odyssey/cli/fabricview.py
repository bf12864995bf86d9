# SPDX-License-Identifier: AGPL-3.0-or-later
"""Answers about the fabric as rows of tables: pure functions from values to values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from odyssey.cli.text import plural

Row = dict[str, Any]
_UNITS = ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s")
_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")


def rate(value: float | None) -> str:
    """A data rate: `12.3 Mbit/s`."""
    return "-" if value is None else _scaled(value, _UNITS)


def size(value: float) -> str:
    """An amount of data in decimal units: `12.3 MB`."""
    return _scaled(value, _SIZES)


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 99.5 or value == int(value) else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {units[-1]}"


def share(part: float, whole: float) -> str:
    """A part in percent; below one percent with a digit more."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def state_of(switch: Mapping[str, Any]) -> str:
    """What an operator must know of a switch first."""
    words = []
    if not switch.get("connected"):
        words.append("not connected")
    if switch.get("isolated"):
        words.append("isolated")
    elif switch.get("maintenance"):
        words.append("maintenance")
    if switch.get("drift"):
        words.append("drift")
    return ", ".join(words) or "ok"


def up_word(value: bool | None) -> str:
    """The state of a port or link: nobody may know it."""
    return "unknown" if value is None else "up" if value else "DOWN"


def attached_word(attached: Mapping[str, Any]) -> str:
    """What hangs on a port."""
    return " ".join(str(attached[key]) for key in ("kind", "name", "at") if attached.get(key))


def switch_rows(fabric: Mapping[str, Any]) -> list[Row]:
    """One row for each switch."""
    rows = []
    for name, switch in fabric["switches"].items():
        up = sum(bool(port["up"]) for port in switch["ports"])
        rows.append({
            "switch": name, **switch, "used": share(switch.get("entries") or 0, switch.get("capacity") or 0),
            "up": f"{up}/{len(switch['ports'])}", "state": state_of(switch),
        })  # fmt: skip
    return rows


def port_rows(fabric: Mapping[str, Any]) -> list[Row]:
    """One row for each port that the inventory names."""
    return [
        {
            "switch": name, "port": port["port"], "name": port.get("name"), "state": up_word(port["up"]),
            "attached": attached_word(port["attached"]), "speed": rate(port["speed"] * 1000) if port["speed"] else None,
            "received": rate(port.get("rxRate")), "sent": rate(port.get("txRate")), "cable": port.get("wrongCable"),
        }
        for name, switch in fabric["switches"].items()
        for port in switch["ports"]
    ]  # fmt: skip


def link_rows(fabric: Mapping[str, Any]) -> list[Row]:
    """One row for each trunk."""
    return [
        {"a": _end(link["a"]), "b": _end(link["b"]), "state": up_word(link["up"])} for link in fabric["links"]
    ]


def _end(port: Mapping[str, Any]) -> str:
    return f"{port['switch']} port {port['port']}"


def host_rows(fabric: Mapping[str, Any]) -> list[Row]:
    """One row for each host, with its nodes by phase."""
    rows = []
    for name, host in fabric["hosts"].items():
        phases: dict[str, list[str]] = {}
        for node in host["nodes"]:
            phases.setdefault(node["phase"], []).append(node["node"])
        ports = ", ".join(f"{port['switch']}:{port['port']}" for port in host["ports"])
        rows.append({"host": name, "connected": host.get("connected"), "ports": ports, **phases})
    return rows


def verdict_lines(answer: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """One line for each switch that was compared."""
    for name, found in answer["switches"].items():
        if found["reason"] is not None:
            yield f"{name}: {found['reason']}", "red"
            continue
        count = len(found["differences"]) + found.get("truncated", 0)
        foreign = f", {found['foreign']} of others" if found["foreign"] else ""
        held = f"{plural_entries(found['entries'])} of ours{foreign}"
        if found["equal"]:
            yield f"{name}: equal, {held}", "green"
        else:
            yield f"{name}: {plural(count, 'difference')}, {held}", "red"


def plural_entries(count: int) -> str:
    """`1 entry`, `2 entries`."""
    return f"{count} entry" if count == 1 else f"{count} entries"


_SIGNS = {"missing": "+", "unexpected": "-", "changed": "~"}


def difference_lines(answer: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """What has to change on each switch: `+` is missing there, `-` should not be there, `~` is not as it should be."""
    colours = {"+": "green", "-": "red", "~": "yellow"}
    for name, found in answer["switches"].items():
        for one in found["differences"]:
            sign = _SIGNS[one["what"]]
            yield f"{sign} {name}  {_difference(one)}", colours[sign]
            if one.get("meaning"):
                yield f"      {one['meaning']} [{one['owner']}]", None
            if one.get("found"):
                yield f"      found: {one['found']}", None
        if found.get("truncated"):
            yield f"  {name}  and {found['truncated']} more", None


def _difference(one: Mapping[str, Any]) -> str:
    if one["kind"] != "entry":
        return f"{one['what']} {one['kind']}: {one['match']}"
    table = f"table {one['table']}" + (f" {one['tableName']}" if one["tableName"] else "")
    return f"{one['what']}: {table}, priority {one['priority']}: {one['match'] or 'everything'} -> {one['actions']}"


def capacity_rows(answer: Mapping[str, Any]) -> list[Row]:
    """One row for each switch."""
    return [
        {"switch": name, **one, "used": share(one["entries"] + one["reserved"], one["capacity"])}
        for name, one in answer["switches"].items()
    ]


def user_rows(answer: Mapping[str, Any]) -> list[Row]:
    """One row for each user of entries on each switch, the largest first."""
    return [
        {"switch": name, "user": user, "entries": count, "share": share(count, one["capacity"])}
        for name, one in answer["switches"].items()
        for user, count in one["byUser"].items()
    ]


def headroom_rows(answer: Mapping[str, Any]) -> list[Row]:
    """One row for each network: what a node costs at most, how many more fit, and what is full first."""
    addresses = answer["addresses"]
    rows: dict[str, Row] = {}
    for name, one in answer["switches"].items():
        for network, nodes in one["headroom"].items():
            row = rows.get(network)
            if row is None or nodes < row["nodes"]:
                full = f"addresses of {network}" if nodes == addresses[network] else name
                rows[network] = {"network": network, "perNode": one["perNode"][network], "nodes": nodes, "full": full}
    return list(rows.values())


def counter_tables(answer: Mapping[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    """Titles and rows: nodes, dependencies, and what was dropped."""
    yield "Nodes", [
        {
            "what": name, "sent": size(one["sentBytes"]), "sentPackets": one["sentPackets"],
            "received": size(one["receivedBytes"]), "receivedPackets": one["receivedPackets"],
        }
        for name, one in answer["nodes"].items()
    ]  # fmt: skip
    yield "Dependencies", [
        {
            "what": f"{one['from']} -> {one['to']}",
            "sent": size(one["openedBytes"]), "sentPackets": one["openedPackets"],
            "received": size(one["returnedBytes"]), "receivedPackets": one["returnedPackets"],
        }
        for one in answer["dependencies"].values()
    ]  # fmt: skip


def drop_rows(answer: Mapping[str, Any]) -> list[Row]:
    """Everything that was dropped for a reason, without what never happened."""
    rows = [
        {"what": f"{kind} {name}", "why": "no policy opens it", "packets": one["deniedPackets"]}
        for kind, group in (("network", answer["networks"]), ("border", answer["borders"]))
        for name, one in group.items()
    ]
    rows += [
        {
            "what": f"{one['switch']} port {one['port']} ({attached_word(one['attached'])})",
            "why": "spoofed source, or a node that is not admitted", "packets": one["spoofedPackets"],
        }
        for one in answer["ports"]
    ]  # fmt: skip
    rows += [
        {"what": f"switch {name}", "why": "later fragment", "packets": one["fragmentPackets"]}
        for name, one in answer["switches"].items()
    ]
    rows += [
        {"what": f"{one['from']} -> {one['to']}", "why": "opened from a service port", "packets": one["turnedPackets"]}
        for one in answer["dependencies"].values()
    ]
    rows += [
        {"what": f"node {name}", "why": "new connection to a draining node", "packets": one["drainedPackets"]}
        for name, one in answer["nodes"].items()
    ]
    return [row for row in rows if row["packets"]]
