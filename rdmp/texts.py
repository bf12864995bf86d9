# SPDX-License-Identifier: AGPL-3.0-or-later
"""Texts for people that go into messages: never longer than the schema allows."""

from __future__ import annotations

from collections.abc import Sequence

MAX_TEXT = 4096  # characters; the schema's limit of every reason
_NAMED = 10  # of many, so many are named
_CUT = "... (cut)"


def clip(text: str) -> str:
    """Return ``text``, cut if it is too long for a message: the peer would refuse the message for it, each time."""
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - len(_CUT)] + _CUT


def clipped(text: str | None) -> str | None:
    """Return ``clip(text)``, or None for none."""
    return None if text is None else clip(text)


def named(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
