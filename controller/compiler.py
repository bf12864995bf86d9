# SPDX-License-Identifier: AGPL-3.0-or-later
"""From intent to table sets, what they cost, and what a change of intent would change.  Pure.

``compile_documents`` is always given the whole intent, in commit order; a change is the difference of two results,
never something computed when a transaction was prepared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from controller import texts
from controller.batches import Delivery
from controller.fabric import Document, Intent, IntentRefused, Port, Refusal
from controller.flows import EntryKey, FlowEntry, Kind, TableSet, crc_owner, make_cookie
from controller.intent import parse_intent
from controller.profiles import PROFILES, SwitchProfile

#: Users of a switch's entries that a refusal names; the rest is counted.
NAMED_USERS = 12


@dataclass(frozen=True)
class Compilation:
    """What every switch has to hold for an intent."""

    intent: Intent
    tables: Mapping[str, TableSet]

    @cached_property
    def owners(self) -> Mapping[int, str]:
        """The name of each owner: ``binding/shop-app-1``, ``policy/shop/lb/app``, ``host/h1`` and so on."""
        intent = self.intent
        names = {make_cookie(Kind.BASE, 0, 0): "base", make_cookie(Kind.PROBE, 0, 0): "probe"}
        for node, binding in intent.bindings.items():
            names[make_cookie(Kind.BINDING, int(binding.address), 0)] = f"binding/{node}"
        for key in intent.policies:
            names[make_cookie(Kind.POLICY, crc_owner(key), 0)] = key
        for service in intent.services.values():
            names[make_cookie(Kind.SERVICE, crc_owner(service.key), 0)] = service.key
            names[make_cookie(Kind.LEARNED, crc_owner(service.key), 0)] = f"learned/{service.network}"
        for key, network in intent.networks.items():
            names[make_cookie(Kind.NETWORK, network.number, 0)] = f"network/{key}"
        if intent.inventory is not None:
            for name in intent.inventory.borders:
                names[make_cookie(Kind.BORDER, crc_owner(name), 0)] = f"border/{name}"
            for name in intent.inventory.hosts:
                names[make_cookie(Kind.HOST, crc_owner(name), 0)] = f"host/{name}"
        return names

    def owner_name(self, owner: int) -> str:
        """Return the name of an owner (a cookie without generation); ``unknown`` where the intent does not have it."""
        return self.owners.get(owner, f"unknown {owner:#018x}")

    def is_egress(self, switch: str, entry: FlowEntry) -> bool:
        """Tell whether an entry of a switch only delivers what another switch has let in."""
        inventory = self.intent.inventory
        if inventory is None or switch not in inventory.switches:
            return False
        return PROFILES[inventory.switches[switch].profile].is_egress(entry)

    def profile(self, switch: str) -> SwitchProfile:
        """Return the profile of a switch of the inventory."""
        assert self.intent.inventory is not None
        return PROFILES[self.intent.inventory.switches[switch].profile]

    def in_maintenance(self, switch: str) -> bool:
        """Tell whether a switch is out of use."""
        inventory = self.intent.inventory
        return inventory is not None and switch in inventory.switches and inventory.switches[switch].maintenance

    @cached_property
    def needs_rerouting(self) -> bool:
        """Tell whether a switch cannot fail over by itself."""
        return any(not self.profile(name).capabilities.groups for name in self.tables)

    def ending(self, switch: str, tables: TableSet, others: TableSet) -> frozenset[EntryKey]:
        """Return the entries by which ends what tables of a switch let in and nothing of others does."""
        inventory = self.intent.inventory
        if inventory is None or switch not in inventory.switches:
            return frozenset()
        return PROFILES[inventory.switches[switch].profile].ending(tables, others)

    def notes(self, switch: str) -> list[str]:
        """Return what the operator must do or know of a switch of the inventory."""
        return self.profile(switch).notes(self.intent, switch)

    def delivery(self, switch: str) -> Delivery | None:
        """Return how changes get to a switch, None: in one atomic bundle."""
        inventory = self.intent.inventory
        profile = inventory.switches[switch].profile if inventory is not None and switch in inventory.switches else ""
        can = PROFILES[profile].capabilities if profile in PROFILES else None
        if can is None or can.atomic_bundle:
            return None
        return Delivery(can.batch, verified=not can.reliable_barrier, groups=can.groups)

    def capacity(self, switch: str) -> int:
        """Return how many entries a switch may hold."""
        assert self.intent.inventory is not None
        return self.intent.inventory.switches[switch].capacity


def compile_documents(documents: Mapping[str, Document], down: frozenset[Port] = frozenset()) -> Compilation:
    """Compile an intent; raises IntentRefused with every reason.  ``down`` are ports without carrier."""
    intent = parse_intent(documents)
    inventory = intent.inventory
    if inventory is None:
        return Compilation(intent, {})
    faults: dict[Refusal, None] = {}
    by_profile: dict[str, list[str]] = {}
    for name, switch in inventory.switches.items():
        by_profile.setdefault(switch.profile, []).append(name)
        profile = PROFILES.get(switch.profile)
        if profile is None:
            known = ", ".join(PROFILES)
            faults[Refusal("inventory", f"switch {name} has the profile {switch.profile}; there are: {known}")] = None
        else:
            faults |= dict.fromkeys(profile.faults(inventory, name) or profile.intent_faults(intent, name))
    if faults:
        raise IntentRefused(faults)
    tables: dict[str, TableSet] = {}
    for profile_name, switches in by_profile.items():
        tables |= PROFILES[profile_name].compile(intent, switches, down)
    return Compilation(intent, {name: tables[name] for name in inventory.switches})


def rerouted(compilation: Compilation, down: frozenset[Port]) -> Compilation:
    """Return the same intent with other ways on the switches without groups: around ports that are down."""
    by_profile: dict[str, list[str]] = {}
    for name in compilation.tables:
        if not compilation.profile(name).capabilities.groups:
            by_profile.setdefault(compilation.profile(name).name, []).append(name)
    tables = dict(compilation.tables)
    for profile, switches in by_profile.items():
        tables |= PROFILES[profile].compile(compilation.intent, switches, down)
    return Compilation(compilation.intent, tables)


def with_changes(
    documents: Mapping[str, Document], changes: Mapping[str, Mapping[str, Any] | None], seq: int
) -> dict[str, Document]:
    """Apply changes (None deletes); a document that comes again unchanged keeps its sequence number."""
    result = dict(documents)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif key not in result or result[key].value != value:
            result[key] = Document(value, seq)
    return result


def capacity_refusals(now: Compilation, alternatives: Iterable[Compilation]) -> list[Refusal]:
    """Refuse what does not fit: ``now`` and every alternative together, old and new versions of an entry counted once.

    An alternative is the intent after one open transaction; any of them may or may not come true.
    """
    all_of_them = [now, *alternatives]
    refusals = []
    for switch in sorted({switch for one in all_of_them for switch in one.tables}):
        found = [one for one in all_of_them if switch in one.tables]
        keys: set[EntryKey] = set()
        for one in found:
            keys |= one.tables[switch].entries.keys()
        capacity = found[-1].capacity(switch)
        if len(keys) > capacity:
            needs = f"{len(keys)} entries are needed, at most {capacity} fit (maxEntries)"
            reason = f"{needs}; used by: {', '.join(_shares(switch, found))}"
            refusals.append(Refusal(f"switch {switch}", reason))
    return refusals


def _shares(switch: str, compilations: Iterable[Compilation]) -> list[str]:
    """Return who uses how many entries of a switch: to find it out takes longer than to count them."""
    by_user: dict[str, set[EntryKey]] = {}
    for one in compilations:
        for key, entry in one.tables[switch].entries.items():
            by_user.setdefault(user_of(one, entry.owner), set()).add(key)
    users = sorted(((len(keys), user) for user, keys in by_user.items()), reverse=True)
    shares = [f"{user} {count}" for count, user in users[:NAMED_USERS]]
    if others := users[NAMED_USERS:]:
        shares.append(f"{len(others)} others {sum(count for count, _ in others)}")
    return shares


def user_of(compilation: Compilation, owner: int) -> str:
    """Return for whom an owner's entries are: the nodes of a network, policies, services and so on."""
    name = compilation.owner_name(owner)
    kind, _, rest = name.partition("/")
    if kind == "binding":
        return f"nodes of {compilation.intent.bindings[rest].network}"
    if kind in ("policy", "expose"):
        return f"policies towards {compilation.intent.policies[name].target}"
    plural = {
        "service": "services",
        "host": "hosts",
        "border": "borders",
        "network": "networks",
    }
    return plural.get(kind, name)


def new_notes(old: Compilation, new: Compilation) -> dict[str, list[str]]:
    """Return for each switch what the operator must do or know of the new intent and did not have to of the old."""
    found = {}
    for switch in new.tables:
        known = old.notes(switch) if switch in old.tables else []
        if notes := [note for note in new.notes(switch) if note not in known]:
            found[switch] = notes
    return found


def preview(old: Compilation, new: Compilation) -> dict[str, Any]:
    """Return for each switch what would change, in counts and in words; generations do not count as a change."""
    report = {}
    for switch in sorted(old.tables.keys() | new.tables.keys()):
        before = old.tables.get(switch, TableSet())
        after = new.tables.get(switch, TableSet())
        gone = [entry for key, entry in before.entries.items() if not _same(entry, after.entries.get(key))]
        come = [entry for key, entry in after.entries.items() if not _same(entry, before.entries.get(key))]
        lines = [("-", entry, old) for entry in gone] + [("+", entry, new) for entry in come]
        lines.sort(key=lambda line: (line[1].table, -line[1].priority, line[1].match, line[0] == "+"))
        report[switch] = {
            "before": len(before.entries),
            "after": len(after.entries),
            "add": len(come),
            "remove": len(gone),
            "capacity": (new if switch in new.tables else old).capacity(switch),
            "entries": [{"op": op, **describe(entry, one)} for op, entry, one in lines],
        }
    return report


def _same(one: FlowEntry, other: FlowEntry | None) -> bool:
    return other is not None and one.actions == other.actions and one.owner == other.owner


def describe(entry: FlowEntry, compilation: Compilation) -> dict[str, Any]:
    """Return an entry in words, with the name of its owner."""
    return {
        "table": entry.table,
        "priority": entry.priority,
        "match": texts.match_text(entry.match),
        "actions": texts.actions_text(entry.actions),
        "owner": compilation.owner_name(entry.owner),
    }
