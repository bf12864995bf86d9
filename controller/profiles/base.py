# SPDX-License-Identifier: AGPL-3.0-or-later
"""The abstract switch profile."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from controller.fabric import Intent, Inventory, Refusal
from controller.flows import TableSet


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of switch can do.

    ``reflects``: whether it can send a packet out of the port on which it came in; where it is not ``yes``, nodes that
    may talk must not share a host.
    """

    tables: int
    groups: bool
    push_vlan: bool
    tcp_flags: bool
    atomic_bundle: bool
    reflects: Literal["yes", "no", "unknown"]


class SwitchProfile(ABC):
    """Turns intent into the entries of one switch.  Pure: the same intent gives the same entries."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The word by which the inventory chooses this profile."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this kind of switch can do."""

    @abstractmethod
    def faults(self, inventory: Inventory, switch: str) -> list[Refusal]:
        """Return every reason why this profile cannot serve ``switch`` in such a fabric."""

    @abstractmethod
    def compile(self, intent: Intent, switch: str) -> TableSet:
        """Return all entries and groups of ``switch``; ``intent`` has an inventory for which ``faults`` is empty."""
