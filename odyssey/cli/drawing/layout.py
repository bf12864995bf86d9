# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where everything of a fabric stands in its picture: spines above leaves, hosts below the leaves that they hang on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from odyssey.cli.drawing.svg import Box

Json = Mapping[str, Any]
PortKey = tuple[str, int]

MARGIN = 40.0
HEAD = 84.0
PORT_WIDTH, PORT_HEIGHT, PORT_STEP = 24.0, 16.0, 30.0
PORTS_IN_A_ROW = 16
SWITCH_WIDTH, SWITCH_HEIGHT = 250.0, 106.0
SWITCH_GAP = 170.0
ROW_GAP = 120.0
HOST_WIDTH, HOST_GAP = 190.0, 26.0
NODE_HEIGHT = 19.0
HOST_HEAD, HOST_FOOT = 50.0, 10.0
NAMED_NODES = 6
"""Nodes of a host that are named; of more only the number of each network is told."""
SINGLE_HOSTS = 12
"""Hosts up to which each one has its own box and its own lines."""
CELL_WIDTH, CELL_HEIGHT, CELL_GAP = 128.0, 58.0, 10.0
CELLS_IN_A_ROW = 4


@dataclass(frozen=True, slots=True)
class Place:
    """A port: the box of its glyph, and the side of the switch on which it is (`top`, `bottom`, `left`, `right`)."""

    box: Box
    side: str


@dataclass(frozen=True, slots=True)
class Group:
    """Hosts that hang on the same switches, drawn as one frame with a cell for each."""

    homes: tuple[str, ...]
    hosts: tuple[str, ...]
    frame: Box
    cells: Mapping[str, Box]


@dataclass
class Layout:
    """Boxes by name; hosts have boxes of their own or are in groups."""

    switches: dict[str, Box] = field(default_factory=dict)
    ports: dict[PortKey, Place] = field(default_factory=dict)
    borders: dict[str, Box] = field(default_factory=dict)
    hosts: dict[str, Box] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    width: float = 0.0
    bottom: float = 0.0


def node_rows(host: Json) -> int:
    """How many lines the nodes of a host take."""
    nodes = host["nodes"]
    return len(nodes) if len(nodes) <= NAMED_NODES else len({node["network"] for node in nodes})


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key by which h2 stands before h10."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def layout_of(fabric: Json) -> Layout:
    """Place everything. Switches with hosts or borders are leaves; the others are spines."""
    return _Placer(fabric).place()


class _Placer:
    def __init__(self, fabric: Json) -> None:
        self._fabric = fabric
        stations = [*fabric["hosts"].values(), *fabric["borders"].values()]
        homes = {port["switch"] for station in stations for port in station["ports"]}
        names = list(fabric["switches"])
        self._spines = [name for name in names if name not in homes] if homes else []
        self._leaves = [name for name in names if name not in self._spines]
        self._rank = {name: place for place, name in enumerate(self._leaves)}
        self._layout = Layout()

    def place(self) -> Layout:
        sides = self._sides()
        top = HEAD
        borders_above = bool(self._fabric["borders"]) and not self._spines
        if borders_above:
            top += self._border_height() + ROW_GAP
        if self._spines:
            top = self._switch_row(self._spines, sides, top) + ROW_GAP
        below = self._switch_row(self._leaves, sides, top) + ROW_GAP
        bottom = self._hosts(below)
        if borders_above:
            self._border_row(HEAD, self._by_homes(self._fabric["borders"]))
        self._layout.bottom = max(bottom, below - ROW_GAP)
        self._centre()
        return self._layout

    # Sides of ports

    def _sides(self) -> dict[str, dict[str, list[int]]]:
        """The ports of each switch by side, in the order in which they stand there."""
        found: dict[str, dict[str, list[int]]] = {}
        for name, switch in self._fabric["switches"].items():
            sides: dict[str, list[int]] = {"top": [], "bottom": [], "left": [], "right": []}
            for port in switch["ports"]:
                sides[self._side(name, port["attached"])].append(port["port"])
            found[name] = sides
        return found

    def _side(self, switch: str, attached: Json) -> str:
        if attached["kind"] == "border":
            return "bottom" if self._spines else "top"
        if attached["kind"] != "switch":
            return "bottom"
        other = attached["name"]
        if (switch in self._spines) != (other in self._spines):
            return "bottom" if switch in self._spines else "top"
        row = self._spines if switch in self._spines else self._leaves
        distance = row.index(other) - row.index(switch) if other in row else 0
        return {1: "right", -1: "left"}.get(distance, "top")

    # Rows

    def _switch_row(self, names: Sequence[str], sides: Mapping[str, Mapping[str, list[int]]], top: float) -> float:
        x, lowest = 0.0, top
        for name in names:
            here = sides[name]
            across = max(min(len(here[side]), PORTS_IN_A_ROW) for side in ("top", "bottom"))
            width = max(SWITCH_WIDTH, across * PORT_STEP + 20)
            rows = sum(max(0, (len(here[side]) - 1) // PORTS_IN_A_ROW) for side in ("top", "bottom"))
            box = Box(x, top, width, SWITCH_HEIGHT + rows * (PORT_HEIGHT + 4))
            self._layout.switches[name] = box
            self._ports(name, box, here)
            x, lowest = box.right + SWITCH_GAP, max(lowest, box.bottom)
        return lowest

    def _ports(self, name: str, box: Box, sides: Mapping[str, list[int]]) -> None:
        for side in ("top", "bottom"):
            numbers = sides[side]
            across = min(len(numbers), PORTS_IN_A_ROW)
            first = box.middle - (across - 1) * PORT_STEP / 2 - PORT_WIDTH / 2
            for place, number in enumerate(numbers):
                x = first + place % PORTS_IN_A_ROW * PORT_STEP
                deep = place // PORTS_IN_A_ROW * (PORT_HEIGHT + 4)
                y = box.y + deep - PORT_HEIGHT / 2 if side == "top" else box.bottom - deep - PORT_HEIGHT / 2
                self._layout.ports[name, number] = Place(Box(x, y, PORT_WIDTH, PORT_HEIGHT), side)
        for side in ("left", "right"):
            for place, number in enumerate(sides[side]):
                y = box.y + box.height / 2 - PORT_HEIGHT / 2 + place * (PORT_HEIGHT + 6)
                x = (box.x if side == "left" else box.right) - PORT_WIDTH / 2
                self._layout.ports[name, number] = Place(Box(x, y, PORT_WIDTH, PORT_HEIGHT), side)

    def _rank_of(self, station: Json) -> float:
        """Where a station would stand to be below the middle of its leaves."""
        ranks = [self._rank.get(port["switch"], 0) for port in station["ports"]] or [0]
        return sum(ranks) / len(ranks)

    def _by_homes(self, stations: Mapping[str, Json]) -> list[str]:
        """Names in the order of the leaves on which they hang."""
        return sorted(stations, key=lambda name: (self._rank_of(stations[name]), natural(name)))

    def _border_height(self) -> float:
        return HOST_HEAD + HOST_FOOT

    def _border_row(self, top: float, names: Iterable[str]) -> None:
        """Stand each border above the ports that lead to it, and beside the one before it."""
        left = 0.0
        for name in names:
            keys = [(port["switch"], port["port"]) for port in self._fabric["borders"][name]["ports"]]
            middles = [self._layout.ports[key].box.middle for key in keys]
            wanted = sum(middles) / len(middles) - HOST_WIDTH / 2 if middles else left
            x = max(left, wanted)
            self._layout.borders[name] = Box(x, top, HOST_WIDTH, self._border_height())
            left = x + HOST_WIDTH + HOST_GAP

    # Hosts

    def _hosts(self, top: float) -> float:
        """Stand hosts, or groups of them, in a row by their leaves; with spines the borders too."""
        hosts, borders = self._fabric["hosts"], self._fabric["borders"] if self._spines else {}
        single = len(hosts) <= SINGLE_HOSTS
        groups = {} if single else self._grouped()
        row: list[tuple[float, str, str | tuple[str, ...]]] = []
        row += [(self._rank_of(border), "border", name) for name, border in borders.items()]
        row += [(self._rank_of(host), "host", name) for name, host in hosts.items() if single]
        row += [(self._rank_of(hosts[names[0]]), "group", homes) for homes, names in groups.items()]
        x, bottom = 0.0, top
        for _, kind, what in sorted(row, key=lambda one: (one[0], one[1] == "border")):
            if isinstance(what, tuple):
                group = self._group(what, groups[what], x, top)
                self._layout.groups.append(group)
                box = group.frame
            elif kind == "border":
                box = self._layout.borders[what] = Box(x, top, HOST_WIDTH, self._border_height())
            else:
                height = HOST_HEAD + node_rows(hosts[what]) * NODE_HEIGHT + HOST_FOOT
                box = self._layout.hosts[what] = Box(x, top, HOST_WIDTH, height)
            x, bottom = box.right + HOST_GAP, max(bottom, box.bottom)
        return bottom

    def _grouped(self) -> dict[tuple[str, ...], list[str]]:
        hosts = self._fabric["hosts"]
        found: dict[tuple[str, ...], list[str]] = {}
        for name in self._by_homes(hosts):
            homes = tuple(dict.fromkeys(port["switch"] for port in hosts[name]["ports"]))
            found.setdefault(homes, []).append(name)
        return found

    def _group(self, homes: tuple[str, ...], names: list[str], x: float, top: float) -> Group:
        across = min(len(names), CELLS_IN_A_ROW)
        down = -(-len(names) // CELLS_IN_A_ROW)
        cells = {
            name: Box(
                x + CELL_GAP + place % CELLS_IN_A_ROW * (CELL_WIDTH + CELL_GAP),
                top + 34 + place // CELLS_IN_A_ROW * (CELL_HEIGHT + CELL_GAP),
                CELL_WIDTH,
                CELL_HEIGHT,
            )
            for place, name in enumerate(names)
        }
        width = CELL_GAP + across * (CELL_WIDTH + CELL_GAP)
        return Group(homes, tuple(names), Box(x, top, width, 34 + down * (CELL_HEIGHT + CELL_GAP)), cells)

    # The whole

    def _centre(self) -> None:
        """Move each row so that its middle is that of the widest one."""
        made = self._layout
        groups = [group.frame for group in made.groups]
        rows = (
            [made.switches[name] for name in self._spines],
            [made.switches[name] for name in self._leaves],
            [*made.hosts.values(), *groups, *(made.borders.values() if self._spines else ())],
        )
        spans = [(min(box.x for box in row), max(box.right for box in row)) for row in rows if row]
        widest = max((right - left for left, right in spans), default=0.0)
        made.width = max(widest + 2 * MARGIN, 640.0)
        shifts = [
            made.width / 2 - (min(box.x for box in row) + max(box.right for box in row)) / 2 if row else 0.0
            for row in rows
        ]
        self._shift(*shifts)
        for box in made.borders.values():
            made.width = max(made.width, box.right + MARGIN)

    def _shift(self, spines: float, leaves: float, hosts: float) -> None:
        made = self._layout
        by_switch = {name: spines if name in self._spines else leaves for name in made.switches}
        made.switches = {name: _moved(box, by_switch[name]) for name, box in made.switches.items()}
        made.ports = {
            key: Place(_moved(place.box, by_switch[key[0]]), place.side) for key, place in made.ports.items()
        }
        made.hosts = {name: _moved(box, hosts) for name, box in made.hosts.items()}
        borders = hosts if self._spines else leaves
        made.borders = {name: _moved(box, borders) for name, box in made.borders.items()}
        made.groups = [
            Group(
                one.homes,
                one.hosts,
                _moved(one.frame, hosts),
                {name: _moved(cell, hosts) for name, cell in one.cells.items()},
            )
            for one in made.groups
        ]


def _moved(box: Box, right: float) -> Box:
    return Box(box.x + right, box.y, box.width, box.height)
