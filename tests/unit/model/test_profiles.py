# SPDX-License-Identifier: AGPL-3.0-or-later
"""What planning knows of a kind of switch is what the controller knows of it."""

from __future__ import annotations

import pytest

import schemas
from controller.profiles import PROFILES as PROGRAMMED
from odyssey.model.profiles import PROFILES


def test_every_profile_of_the_schema_is_known() -> None:
    known = schemas.document("inventory")["$defs"]["switch"]["properties"]["profile"]["enum"]
    assert set(known) == set(PROFILES)


@pytest.mark.parametrize("name", sorted(PROGRAMMED))
def test_both_houses_know_the_same(name: str) -> None:
    facts, capabilities = PROFILES[name], PROGRAMMED[name].capabilities
    assert facts.keeps_dark == capabilities.keeps_dark
    assert facts.reflects == capabilities.reflects
    assert facts.needs_tagged is not capabilities.push_vlan
    assert facts.ipv6 == capabilities.ipv6
    assert facts.groups == capabilities.groups
    assert facts.one_table == (capabilities.tables == 1)
