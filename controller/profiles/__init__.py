# SPDX-License-Identifier: AGPL-3.0-or-later
"""Switch profiles: what each kind of switch can do and how intent becomes entries for it."""

from __future__ import annotations

from collections.abc import Mapping

from controller.profiles.alliedtelesis import AlliedTelesisProfile
from controller.profiles.base import SwitchProfile, Use
from controller.profiles.nexus9000 import Nexus9000Profile
from controller.profiles.openvswitch import OpenVSwitchProfile

PROFILES: Mapping[str, SwitchProfile] = {
    profile.name: profile for profile in (OpenVSwitchProfile(), Nexus9000Profile(), AlliedTelesisProfile())
}

__all__ = ["PROFILES", "SwitchProfile", "Use"]
