# SPDX-License-Identifier: AGPL-3.0-or-later
"""Shapes as SVG 1.1 text. Whatever comes from outside is escaped here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from odyssey.cli.text import clean

CHARACTER_SHARE = 0.56
"""Width of an average character of a sans-serif font, as a part of its size; text is cut by it, not measured."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> float:
        """The horizontal middle."""
        return self.x + self.width / 2


def fitted(text: str, width: float, size: float) -> str:
    """`text`, cut with an ellipsis to what fits into `width` at a font size."""
    most = max(1, int(width / (size * CHARACTER_SHARE)))
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass
class Svg:
    """A picture that grows shape by shape; later shapes lie above earlier ones."""

    shapes: list[str] = field(default_factory=list)

    def rect(self, box: Box, style: str, radius: float = 0.0, title: str = "") -> None:
        """A rectangle; `title` is shown when a mouse rests on it."""
        place = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
        self._add("rect", f'{place} rx="{radius:.1f}"', style, title)

    def circle(self, x: float, y: float, radius: float, style: str) -> None:
        """A circle."""
        self._add("circle", f'cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"', style, "")

    def line(self, points: tuple[float, float, float, float], style: str, title: str = "", width: float = 0.0) -> None:
        """A straight line from (x1, y1) to (x2, y2)."""
        x1, y1, x2, y2 = points
        place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self._add("line", place + _width(width), style, title)

    def curve(self, path: str, style: str, title: str = "", width: float = 0.0) -> None:
        """A path that is not filled."""
        self._add("path", f'd="{path}"{_width(width)}', style, title)

    def text(self, x: float, y: float, text: str, style: str) -> None:
        """A line of text; `style` may hold its anchor."""
        self.shapes.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{_safe(text)}</text>')

    def _add(self, name: str, place: str, style: str, title: str) -> None:
        inner = f"><title>{_safe(title)}</title></{name}>" if title else "/>"
        self.shapes.append(f'<{name} {place} class="{style}"{inner}')

    def document(self, width: float, height: float, title: str, css: str) -> str:
        """The whole picture."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label={quoteattr(clean(title))}>'
        )
        body = "\n".join(self.shapes)
        return f"{head}\n<style>{css}</style>\n{body}\n</svg>\n"


def _width(width: float) -> str:
    return f' style="stroke-width:{width:.1f}"' if width else ""


def _safe(text: str) -> str:
    return escape(clean(text))
