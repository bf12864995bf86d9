# SPDX-License-Identifier: AGPL-3.0-or-later
"""Values of options that click does not know by itself."""

from __future__ import annotations

import re

import click

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_FORM = re.compile(r"(\d{1,6})([smhd]?)")


def duration(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    """A callback for options: `30s`, `10m`, `1h`, `2d` or plain seconds, as seconds. Raises click.BadParameter."""
    match = _FORM.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no duration: use 30s, 10m, 1h or 2d")
    return float(match.group(1)) * _UNITS[match.group(2)]
