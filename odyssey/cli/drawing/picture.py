# SPDX-License-Identifier: AGPL-3.0-or-later
"""Draws a fabric that is laid out: lines below, boxes above, faults marked and listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from odyssey.cli.drawing.faults import Fault, faults_of
from odyssey.cli.drawing.layout import MARGIN, NAMED_NODES, NODE_HEIGHT, Group, Layout, PortKey, layout_of
from odyssey.cli.drawing.svg import Box, Svg, fitted
from odyssey.cli.fabricview import attached_word, rate, share, state_of, up_word
from odyssey.cli.text import plural

Json = Mapping[str, Any]

#: Okabe and Ito's colours, which most people with colour blindness tell apart, without yellow and black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7a5195", "#5c6b73")
BUSY_SHARE = 0.7
"""Of a link's speed, from which on its line is drawn as busy."""
QUIET_RATE = 1000
"""In bit/s; what is below is not written to a line."""
THINNEST, THICKEST = 1.6, 7.0
LISTED_FAULTS = 20

CSS = """
text{font-family:Inter,"Helvetica Neue",Helvetica,Arial,sans-serif;fill:#1f2a33}
.page{fill:#ffffff}.title{font-size:20px;font-weight:600}.sub{font-size:13px;fill:#5c6b73}
.switch{fill:#eef3f7;stroke:#5c7a93;stroke-width:1.5}.away{fill:#f6f6f6;stroke:#c0392b;stroke-dasharray:6 4}
.kept{fill:#fff6e0;stroke:#c98a00;stroke-dasharray:6 4}
.host{fill:#ffffff;stroke:#9fb0bd;stroke-width:1.2}.frame{fill:#fafbfc;stroke:#c6d0d8;stroke-width:1}
.border{fill:#f3eefb;stroke:#7a5195;stroke-width:1.5}
.name{font-size:14px;font-weight:600}.small{font-size:11px;fill:#5c6b73}.tiny{font-size:9px;fill:#5c6b73}
.node{font-size:11px}.mid{text-anchor:middle}.end{text-anchor:end}
.link{fill:none;stroke:#7b93a6}.busy{fill:none;stroke:#e08a00}.cut{fill:none;stroke:#c0392b;stroke-dasharray:5 4}
.unsure{fill:none;stroke:#b8c2ca;stroke-dasharray:2 3}
.up{fill:#2e7d4f}.down{fill:#c0392b}.unknown{fill:#95a1aa}.number{font-size:9px;fill:#ffffff;text-anchor:middle}
.track{fill:#d9e2e9}.used{fill:#3f78a8}.full{fill:#c0392b}
.label{fill:#ffffff;opacity:.88}.load{font-size:10px;fill:#41525f;text-anchor:middle}
.badge{fill:#c0392b}.notice{fill:#c98a00}.mark{font-size:11px;font-weight:700;fill:#ffffff;text-anchor:middle}
.dark{fill-opacity:.25;stroke-width:1.2;stroke-dasharray:2 2}.draining{fill-opacity:.5;stroke-width:1.2}
.standby{fill-opacity:0;stroke-width:1.2}
.good{font-size:13px;fill:#2e7d4f;font-weight:600}.bad{font-size:12px;fill:#c0392b}.odd{font-size:12px;fill:#8a6100}
"""


def draw(fabric: Json) -> str:
    """The picture of an answer of `fabric.show`."""
    return _Picture(fabric).text()


class _Picture:
    def __init__(self, fabric: Json) -> None:
        self._fabric = fabric
        self._layout: Layout = layout_of(fabric)
        self._faults = faults_of(fabric)
        self._svg = Svg()
        self._labels: list[tuple[float, float, str]] = []
        self._nics: list[tuple[float, float, str]] = []
        self._ports: dict[PortKey, Json] = {
            (name, port["port"]): port for name, switch in fabric["switches"].items() for port in switch["ports"]
        }
        self._colours = {
            key: COLOURS[place % len(COLOURS)] for place, key in enumerate(sorted(fabric["networks"]))
        }

    def text(self) -> str:
        height = self._layout.bottom + 36
        self._lines()
        self._boxes()
        height = self._legend(height)
        height = self._fault_list(height)
        head, self._svg.shapes = self._svg.shapes, []
        self._svg.rect(Box(0, 0, self._layout.width, height), "page")
        self._title()
        self._svg.shapes += head
        colours = "".join(
            f".n{place}{{fill:{colour};stroke:{colour}}}" for place, colour in enumerate(COLOURS)
        )
        return self._svg.document(self._layout.width, height, "Odyssey fabric", CSS + colours)

    def _title(self) -> None:
        nodes = sum(len(host["nodes"]) for host in self._fabric["hosts"].values())
        words = [
            plural(len(self._fabric["switches"]), "switch"), plural(len(self._fabric["hosts"]), "host"),
            plural(nodes, "node"), plural(len(self._fabric["borders"]), "border"),
        ]  # fmt: skip
        self._svg.text(MARGIN, 36, "Fabric", "title")
        self._svg.text(MARGIN, 56, ", ".join(words), "sub")

    # Lines

    def _lines(self) -> None:
        for link in self._fabric["links"]:
            self._trunk((link["a"]["switch"], link["a"]["port"]), (link["b"]["switch"], link["b"]["port"]), link["up"])
        for kind, boxes in (("hosts", self._layout.hosts), ("borders", self._layout.borders)):
            for name, box in boxes.items():
                ports = self._fabric[kind][name]["ports"]
                for place, port in enumerate(ports, start=1):
                    x = box.x + box.width * place / (len(ports) + 1)
                    self._cable((port["switch"], port["port"]), x, box, port.get("nic"))
        for group in self._layout.groups:
            self._bundles(group)
        for x, y, text in self._labels:
            width = len(text) * 5.4 + 8
            self._svg.rect(Box(x - width / 2, y - 8, width, 15), "label", 3)
            self._svg.text(x, y + 3.5, text, "load")

    def _trunk(self, a: PortKey, b: PortKey, up: bool | None) -> None:
        if a not in self._layout.ports or b not in self._layout.ports:
            return
        one, other = self._layout.ports[a], self._layout.ports[b]
        x1, y1, x2, y2 = one.box.middle, _centre(one.box), other.box.middle, _centre(other.box)
        load = self._load(a)
        title = f"{a[0]} port {a[1]} to {b[0]} port {b[1]}: {up_word(up)}"
        path = f"M{x1:.1f},{y1:.1f} L{x2:.1f},{y2:.1f}"
        if one.side == other.side == "top":  # over the switches between them
            lift = min(y1, y2) - 46
            path = f"M{x1:.1f},{y1:.1f} C{x1:.1f},{lift:.1f} {x2:.1f},{lift:.1f} {x2:.1f},{y2:.1f}"
        elif {one.side, other.side} == {"top", "bottom"}:
            path = _curve(x1, y1, x2, y2)
        self._svg.curve(path, self._line_style(up, load), title, _thickness(load))
        if one.side in ("left", "right"):
            self._label((x1 + x2) / 2, (y1 + y2) / 2, a, up)
        else:
            key, end = (a, one) if one.side == "top" else (b, other)
            self._label(end.box.middle, end.box.y - 14 - 17 * (self._place_at_top(key) % 3), a, up)

    def _place_at_top(self, key: PortKey) -> int:
        """The place of a port among those at the top of its switch: the labels of neighbours must not overlap."""
        numbers = [one for (name, one), place in self._layout.ports.items() if name == key[0] and place.side == "top"]
        return numbers.index(key[1])

    def _cable(self, key: PortKey, x: float, box: Box, nic: str | None) -> None:
        place = self._layout.ports.get(key)
        if place is None:
            return
        above = box.y > place.box.y
        y = box.y if above else box.bottom
        port, load = self._ports[key], self._load(key)
        title = f"{key[0]} port {key[1]} ({port.get('name') or '-'}) to {attached_word(port['attached'])}"
        title = f"{title}: {up_word(port['up'])}"
        path = _curve(place.box.middle, _centre(place.box), x, y)
        self._svg.curve(path, self._line_style(port["up"], load), title, _thickness(load))
        if nic:
            self._nics.append((x, y + 11 if above else y - 4, nic))
        self._label(x, y - 14 if above else y + 16, key, port["up"])

    def _bundles(self, group: Group) -> None:
        """One line from each switch to a group of hosts."""
        for place, switch in enumerate(group.homes, start=1):
            keys = [
                (port["switch"], port["port"])
                for name in group.hosts
                for port in self._fabric["hosts"][name]["ports"]
                if port["switch"] == switch
            ]
            down = sum(self._ports[key]["up"] is False for key in keys)
            known = all(self._ports[key]["up"] is not None for key in keys)
            box = self._layout.switches[switch]
            x = group.frame.x + group.frame.width * place / (len(group.homes) + 1)
            style = "unsure" if not known else "cut" if down == len(keys) else "link"
            path = _curve(box.middle, box.bottom, x, group.frame.y)
            self._svg.curve(path, style, f"{switch}: {plural(len(keys), 'port')}, {down} down", 3.0)

    def _load(self, key: PortKey) -> float | None:
        """Load of a port in the busier direction, as a part of its speed."""
        port = self._ports.get(key)
        if port is None or port.get("rxRate") is None or not port.get("speed"):
            return None
        return float(max(port["rxRate"], port["txRate"]) / (port["speed"] * 1000))

    def _label(self, x: float, y: float, key: PortKey, up: bool | None) -> None:
        """Note the rate of a port for its line, if it is worth a word."""
        port = self._ports.get(key, {})
        fastest = max(port.get("rxRate") or 0, port.get("txRate") or 0)
        if up and fastest >= QUIET_RATE:
            self._labels.append((x, y, rate(fastest)))

    @staticmethod
    def _line_style(up: bool | None, load: float | None) -> str:
        if up is None:
            return "unsure"
        return "cut" if not up else "busy" if load is not None and load >= BUSY_SHARE else "link"

    # Boxes

    def _boxes(self) -> None:
        for name, box in self._layout.switches.items():
            self._switch(name, box, self._fabric["switches"][name])
        for key, place in self._layout.ports.items():
            port = self._ports[key]
            style = {True: "up", False: "down", None: "unknown"}[port["up"]]
            self._svg.rect(place.box, style, 3, f"{key[0]} port {key[1]}: {up_word(port['up'])}")
            self._svg.text(place.box.middle, place.box.y + 11.5, str(key[1]), "number")
            self._badge(f"port {key[0]}:{key[1]}", place.box.right, place.box.y, small=True)
        for name, box in self._layout.hosts.items():
            self._host(name, box, self._fabric["hosts"][name])
        for group in self._layout.groups:
            self._group(group)
        for name, box in self._layout.borders.items():
            self._svg.rect(box, "border", 8)
            self._svg.text(box.x + 12, box.y + 28, fitted(name, box.width - 24, 14), "name")
            self._svg.text(box.x + 12, box.y + 46, f"border, {self._fabric['borders'][name]['prefix']}", "small")

        for x, y, nic in self._nics:
            self._svg.text(x, y, nic, "tiny mid")

    def _switch(self, name: str, box: Box, switch: Json) -> None:
        style = "switch" if switch.get("connected") else "switch away"
        if switch.get("connected") and switch.get("maintenance"):
            style = "switch kept"
        self._svg.rect(box, style, 8)
        self._svg.text(box.x + 20, box.y + 32, fitted(name, box.width - 130, 14), "name")
        self._svg.text(box.right - 20, box.y + 32, str(switch["profile"]), "small end")
        role = f", {switch['role']}" if switch.get("role") else ""
        self._svg.text(box.x + 20, box.y + 49, f"{state_of(switch)}{role}", "small")
        entries, capacity = switch.get("entries") or 0, switch.get("capacity") or 0
        track = Box(box.x + 20, box.y + 58, box.width - 40, 7)
        part = min(1.0, entries / capacity) if capacity else 0.0
        self._svg.rect(track, "track", 3.5)
        if entries:
            used = Box(track.x, track.y, max(3.0, track.width * part), track.height)
            self._svg.rect(used, "full" if part >= 0.9 else "used", 3.5)
        text = f"{entries} of {capacity} entries, {share(entries, capacity)}"
        self._svg.text(box.x + 20, box.y + 81, text, "small")
        self._badge(f"switch {name}", box.right - 4, box.y + 4)

    def _host(self, name: str, box: Box, host: Json) -> None:
        self._svg.rect(box, "host", 8)
        self._svg.text(box.x + 12, box.y + 32, fitted(name, box.width - 80, 14), "name")
        self._svg.text(box.right - 12, box.y + 32, plural(len(host["nodes"]), "node"), "small end")
        y = box.y + 50
        if len(host["nodes"]) <= NAMED_NODES:
            for node in host["nodes"]:
                self._chip(box.x + 12, y, node)
                words = node["node"] if node["phase"] == "admitted" else f"{node['node']} ({node['phase']})"
                self._svg.text(box.x + 28, y + 9.5, fitted(words, box.width - 40, 11), "node")
                y += NODE_HEIGHT
        else:
            for network, count in sorted(Counter(node["network"] for node in host["nodes"]).items()):
                self._chip(box.x + 12, y, {"network": network, "phase": "admitted"})
                self._svg.text(box.x + 28, y + 9.5, fitted(f"{network}  {count}", box.width - 40, 11), "node")
                y += NODE_HEIGHT
        self._badge(f"host {name}", box.right - 4, box.y + 4)

    def _chip(self, x: float, y: float, node: Json, size: float = 10.0) -> None:
        place = COLOURS.index(self._colours[node["network"]]) if node["network"] in self._colours else 7
        phase = "" if node["phase"] == "admitted" else f" {node['phase']}"
        title = f"{node.get('node', node['network'])}: {node['phase']}"
        self._svg.rect(Box(x, y, size, size), f"n{place}{phase}", 2.5, title)

    def _group(self, group: Group) -> None:
        self._svg.rect(group.frame, "frame", 8)
        text = f"{plural(len(group.hosts), 'host')} on {', '.join(group.homes)}"
        self._svg.text(group.frame.x + 12, group.frame.y + 22, fitted(text, group.frame.width - 24, 14), "name")
        for name, cell in group.cells.items():
            host = self._fabric["hosts"][name]
            self._svg.rect(cell, "host", 5)
            self._svg.text(cell.x + 8, cell.y + 17, fitted(name, cell.width - 60, 11), "node")
            for place, port in enumerate(host["ports"]):
                state = {True: "up", False: "down", None: "unknown"}[self._ports[port["switch"], port["port"]]["up"]]
                glyph = Box(cell.right - 8 - (len(host["ports"]) - place) * 17, cell.y + 8, 14, 10)
                self._svg.rect(glyph, state, 2, f"{port['switch']} port {port['port']}")
            self._cell_nodes(cell, host["nodes"])
            self._badge(f"host {name}", cell.right - 2, cell.y + 2, small=True)

    def _cell_nodes(self, cell: Box, nodes: list[Json]) -> None:
        """A mark for each node, as many as fit in two lines; the rest is counted."""
        across = int((cell.width - 16) // 11)
        shown = nodes if len(nodes) <= 2 * across else nodes[: 2 * across - 3]
        for place, node in enumerate(shown):
            self._chip(cell.x + 8 + place % across * 11, cell.y + 28 + place // across * 12, node, 8.0)
        if len(shown) < len(nodes):
            self._svg.text(cell.right - 8, cell.y + 48, f"+{len(nodes) - len(shown)}", "tiny end")

    def _badge(self, where: str, x: float, y: float, *, small: bool = False) -> None:
        here = [fault for fault in self._faults if fault.where == where]
        if not here:
            return
        radius = 6.0 if small else 9.0
        self._svg.circle(x, y, radius, "badge" if any(fault.grave for fault in here) else "notice")
        self._svg.text(x, y + radius * 0.43, "!", "mark")

    # Below

    def _legend(self, top: float) -> float:
        x, y = MARGIN, top
        for key, network in sorted(self._fabric["networks"].items()):
            text = key if network.get("vlan") is None else f"{key} (VLAN {network['vlan']})"
            width = len(text) * 6.2 + 40
            if x + width > self._layout.width - MARGIN:
                x, y = MARGIN, y + 20
            self._chip(x, y - 9, {"network": key, "phase": "admitted"})
            self._svg.text(x + 16, y, text, "node")
            x += width
        phases = {node["phase"] for host in self._fabric["hosts"].values() for node in host["nodes"]}
        for phase in ("dark", "standby", "draining"):
            if phase in phases:
                self._svg.rect(Box(x, y - 9, 10, 10), f"n7 {phase}", 2.5)
                self._svg.text(x + 16, y, phase, "small")
                x += 80
        return y + (20 if self._fabric["networks"] else 0)

    def _fault_list(self, top: float) -> float:
        y = top + 14
        if not self._faults:
            self._svg.text(MARGIN, y, "No faults", "good")
            return y + 24
        self._svg.text(MARGIN, y, plural(len(self._faults), "fault"), "name")
        for fault in self._faults[:LISTED_FAULTS]:
            y += 19
            self._fault(fault, y)
        if len(self._faults) > LISTED_FAULTS:
            y += 19
            self._svg.text(MARGIN + 16, y, f"and {len(self._faults) - LISTED_FAULTS} more", "small")
        return y + 24

    def _fault(self, fault: Fault, y: float) -> None:
        self._svg.circle(MARGIN + 5, y - 4, 5, "badge" if fault.grave else "notice")
        self._svg.text(MARGIN + 16, y, fault.text, "bad" if fault.grave else "odd")


def _centre(box: Box) -> float:
    return box.y + box.height / 2


def _curve(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line that leaves and arrives vertically."""
    half = (y1 + y2) / 2
    return f"M{x1:.1f},{y1:.1f} C{x1:.1f},{half:.1f} {x2:.1f},{half:.1f} {x2:.1f},{y2:.1f}"


def _thickness(load: float | None) -> float:
    return THINNEST + (THICKEST - THINNEST) * min(1.0, load or 0.0)
