# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pipeline of switches with one table, and what kinds of them have in common (``docs/fabric.md``, "One table")."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from controller.fabric import Intent, Inventory, Port, Refusal
from controller.families import FAMILIES, IPV4, Family
from controller.flows import EntryKey, FlowEntry, TableSet
from controller.profiles import single_table_rules as rules
from controller.profiles.base import SwitchProfile, Use
from controller.profiles.single_table_changes import only_in
from controller.profiles.single_table_layers import LLDP, TRANSIT, TRANSIT_SERVICE
from controller.profiles.single_table_policy import PolicyEntries
from controller.profiles.single_table_transit import Surroundings
from controller.profiles.single_table_view import FabricView, SwitchView
from controller.profiles.single_table_ways import Ways
from controller.profiles.single_table_words import uses_of

assert LLDP < TRANSIT < TRANSIT_SERVICE  # what lies from TRANSIT to TRANSIT_SERVICE only delivers


class SingleTableProfile(SwitchProfile):
    """One table, no groups, no registers, no tags pushed; the compiler chooses the ports."""

    @property
    def families(self) -> tuple[Family, ...]:
        """The address families for which there are entries."""
        return FAMILIES if self.capabilities.ipv6 else (IPV4,)

    def faults(self, inventory: Inventory, switch: str) -> list[Refusal]:
        return list(rules.inventory_faults(inventory, switch, self.name, self.capabilities))

    def intent_faults(self, intent: Intent, switch: str) -> list[Refusal]:
        return list(rules.intent_faults(intent, switch, self.name, self.capabilities))

    def notes(self, intent: Intent, switch: str) -> list[str]:
        return list(rules.notes(intent, switch, self.capabilities))

    def compile(
        self, intent: Intent, switches: Sequence[str], down: frozenset[Port] = frozenset()
    ) -> Mapping[str, TableSet]:
        inventory = intent.inventory
        assert inventory is not None
        can = self.capabilities
        fabric = FabricView(intent, inventory, Ways.of(inventory, down), self.families, can.icmp_errors)
        views = [SwitchView(fabric, name, rules.reflects(inventory.switches[name], can)) for name in switches]
        return {view.name: TableSet.of(_entries(view)) for view in views}

    def is_egress(self, entry: FlowEntry) -> bool:
        return TRANSIT <= entry.priority <= TRANSIT_SERVICE

    def uses(self, entry: FlowEntry) -> tuple[Use, ...]:
        return uses_of(entry)

    def only_in(self, tables: TableSet, others: TableSet) -> frozenset[EntryKey]:
        return only_in(tables, others)


def _entries(view: SwitchView) -> Iterator[FlowEntry]:
    yield from Surroundings(view)
    yield from PolicyEntries(view)
