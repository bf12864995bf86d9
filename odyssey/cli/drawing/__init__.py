# SPDX-License-Identifier: AGPL-3.0-or-later
"""The fabric as an SVG picture: a pure function from the answer of `fabric.show` to text."""

from __future__ import annotations

from odyssey.cli.drawing.faults import Fault, faults_of
from odyssey.cli.drawing.picture import draw

__all__ = ["Fault", "draw", "faults_of"]
