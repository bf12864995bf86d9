# SPDX-License-Identifier: AGPL-3.0-or-later
"""A small SVG of bars beside each other, some of them ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
LEFT, RIGHT, TOP, ROW = 330, 90, 40, 26
OURS, OTHERS = "#1b6ca8", "#9aa5ad"


@dataclass(frozen=True, slots=True)
class Bar:
    """A name and a value; ``ours`` decides the colour."""

    name: str
    value: float
    ours: bool


def bars(found: Sequence[Bar], title: str) -> str:
    """The SVG of the bars, from 0, in the order in which they are given."""
    most = max((bar.value for bar in found), default=1.0) or 1.0
    height = TOP + ROW * len(found) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="14">{escape(title)}</text>',
    ]
    for number, bar in enumerate(found):
        y = TOP + ROW * number
        width = (WIDTH - LEFT - RIGHT) * bar.value / most
        colour = OURS if bar.ours else OTHERS
        parts.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(bar.name)}</text>')
        parts.append(f'<rect x="{LEFT}" y="{y + 2}" width="{width:.1f}" height="{ROW - 8}" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{y + 15}">{bar.value:,.0f}</text>')
    return "\n".join([*parts, "</svg>", ""])
