# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two runs never share a lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from odyssey.demo import only
from odyssey.lab import LabError
from odyssey.lab.settings import Settings


def test_a_second_user_is_refused_until_the_first_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(only, "PLACE", tmp_path)
    settings, other = Settings(prefix="one"), Settings(prefix="two")
    with only.only_user(settings):
        with pytest.raises(LabError, match="at work in the lab one"), only.only_user(settings):
            pass
        with only.only_user(other):
            pass
    with only.only_user(settings, wait=1.0):
        pass
