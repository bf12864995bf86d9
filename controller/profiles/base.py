# SPDX-License-Identifier: AGPL-3.0-or-later
"""The abstract switch profile."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from controller.fabric import Intent, Inventory, Port, Refusal
from controller.flows import EntryKey, FlowEntry, TableSet


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of switch can do.

    ``reflects``: whether it can send a packet out of the port on which it came in; where it is not ``yes``, nodes that
    may talk must not share a host.  ``answers_neighbours``: ARP and neighbour discovery of border devices are answered
    by entries, else those devices need static neighbours.  ``learns``: established connections to a service stay where
    they are when slots move.  ``keeps_dark``: a node that is not admitted can be kept from sending, else its link is
    down.  ``pins``: whether a source is held to its own address or to the subnet of its network.  ``fragments``:
    fragments can be told apart and dropped.  ``batch``: the most changes in one go, None where there is no such limit.
    ``icmp_errors``: ICMP messages can be told apart by type.  ``most_entries``: what the device itself can hold, None
    where nobody knows.
    """

    tables: int
    groups: bool
    push_vlan: bool
    tcp_flags: bool
    atomic_bundle: bool
    reflects: Literal["yes", "no", "unknown"]
    ipv6: bool
    answers_neighbours: bool
    learns: bool
    keeps_dark: bool
    pins: Literal["node", "network"]
    fragments: bool
    batch: int | None
    reliable_barrier: bool
    icmp_errors: bool = True
    most_entries: int | None = None


class Use(enum.StrEnum):
    """What the packets of an entry are counted as.

    ``opened`` and ``returned`` belong to a policy: from the clients to its ports, and back; ``reported`` are ICMP
    errors of its two networks, ``turned`` connections that somebody tried to open from a service port.  ``denied``:
    what a network or border may not send; ``drained``: new connections to a node that takes no more.
    """

    SENT = "sent"
    RECEIVED = "received"
    DRAINED = "drained"
    OPENED = "opened"
    RETURNED = "returned"
    REPORTED = "reported"
    TURNED = "turned"
    DENIED = "denied"
    SPOOFED = "spoofed"
    FRAGMENT = "fragment"


class SwitchProfile(ABC):
    """Turns intent into the entries of switches of one kind.  Pure: the same intent gives the same entries."""

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

    def intent_faults(self, intent: Intent, switch: str) -> list[Refusal]:
        """Return every reason why this profile cannot make an intent true on ``switch``; none unless it says so."""
        return []

    def notes(self, intent: Intent, switch: str) -> list[str]:
        """Return what the operator must do or know that entries cannot do, in words for people."""
        return []

    @abstractmethod
    def compile(
        self, intent: Intent, switches: Sequence[str], down: frozenset[Port] = frozenset()
    ) -> Mapping[str, TableSet]:
        """Return all entries, groups and meters of each of ``switches``, which are of this profile.

        ``intent`` has an inventory for which ``faults`` is empty.  ``down`` are ports that have no carrier; a profile
        with groups leaves them to the switch.
        """

    @abstractmethod
    def is_egress(self, entry: FlowEntry) -> bool:
        """Tell whether an entry only delivers what another switch has let in: it comes first and goes last."""

    def only_in(self, tables: TableSet, others: TableSet) -> frozenset[EntryKey]:
        """Return the entries of ``tables`` that let in to whole prefixes what nothing of ``others`` does.

        They also let in to addresses that nobody has: in an update they go before somebody gets one, and come after
        somebody has lost one.  None unless the profile says so.
        """
        return frozenset()

    def uses(self, entry: FlowEntry) -> tuple[Use, ...]:
        """Return what the packets of an entry are counted as; nothing unless the profile says so."""
        return ()

    def table_name(self, table: int) -> str:
        """Return what a table is called, empty where it has no name."""
        return ""
