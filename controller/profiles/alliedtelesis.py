# SPDX-License-Identifier: AGPL-3.0-or-later
"""Allied Telesis switches with AlliedWare Plus (``docs/fabric.md``, "Allied Telesis", has the sources)."""

from __future__ import annotations

from controller.profiles.base import Capabilities
from controller.profiles.single_table import SingleTableProfile

#: Nothing is documented: small enough that a switch which answers late is found out early.
BATCH = 100


class AlliedTelesisProfile(SingleTableProfile):
    """One table of what these devices have; both address families; barriers are not relied on."""

    @property
    def name(self) -> str:
        return "alliedtelesis"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            tables=1,
            groups=False,
            push_vlan=False,
            tcp_flags=False,
            atomic_bundle=False,
            reflects="unknown",
            ipv6=True,
            answers_neighbours=False,
            learns=False,
            keeps_dark=False,
            pins="network",
            fragments=False,
            batch=BATCH,
            reliable_barrier=False,
        )
