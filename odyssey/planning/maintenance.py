# SPDX-License-Identifier: AGPL-3.0-or-later
"""A switch is taken out of use without a lost packet, and brought back.

Out: hosts leave it (they have another switch), then the other switches stop sending over it, then nothing uses it any
more, then its ports towards hosts go down. It may be upgraded or replaced now. Back is the mirror: it is filled and
checked while its ports are down, then opened, then used by the other switches, then by the hosts. Each transaction
stores how far it went (`odyssey.model.maintenance`), so the way goes on from there after any failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from odyssey.model.faults import by_path, fault
from odyssey.model.inventory import Inventory
from odyssey.model.maintenance import Maintenance
from odyssey.model.naming import maintenance_document
from odyssey.model.snapshot import Snapshot
from odyssey.planning.builder import Builder
from odyssey.planning.cut import cut_off
from odyssey.planning.goal import MaintenanceGoal
from odyssey.planning.operations import AVOID, RETURN, Draft, listed
from odyssey.planning.steps import PlanRefused, QuietStep
from schemas import Fault

PATH = "$.data[0].System.Switch.name"

QUIET_PACKETS = 10.0
"""Packets a second on one port towards a host that are no traffic: what kernels send on their own."""

QUIET_TIMEOUT = 30.0
"""Seconds until nothing uses a switch any more that hosts and other switches were told to leave."""

_ANYWAY = "--force does it all the same"


def maintain(builder: Builder, goal: MaintenanceGoal) -> None:
    """Append the steps that are left. Raises PlanRefused with every reason."""
    inventory = builder.now.inventory
    if inventory is None or goal.switch not in inventory.fabric.switches:
        known = ", ".join(sorted(inventory.fabric.switches)) if inventory is not None else "there is none"
        raise PlanRefused(fault(PATH, goal.switch, f"a switch of the inventory: {known}"))
    if goal.on:
        _take_out(builder, inventory, goal)
    else:
        _bring_back(builder, goal.switch)


def _take_out(builder: Builder, inventory: Inventory, goal: MaintenanceGoal) -> None:
    standing = builder.now.unused().get(goal.switch)
    if standing is None:
        if faults := by_path(_objections(inventory, builder.now, goal)):
            raise PlanRefused(*faults)
        earlier = builder.now.maintenance.get(goal.switch)
        told = dict(earlier.avoid) if earlier is not None else {}
        standing = Maintenance(goal.switch, avoid={**told, **_avoidable(inventory, builder.now, goal.switch)})
        draft = Draft(f"leave switch {goal.switch}", AVOID)
        _store(builder, draft, standing.switch, standing)
        _prefer(builder, draft)
        draft.event("switch.maintenance", switch=goal.switch, phase="unused")
        builder.add(draft)
    if standing.isolated:
        return
    ports = sorted({port for host in inventory.hosts.values() for port in host.ports_on(goal.switch)})
    if ports:
        builder.wait(QuietStep(goal.switch, tuple(ports), QUIET_PACKETS, QUIET_TIMEOUT, required=not goal.force))
    draft = Draft(f"isolate switch {goal.switch}", AVOID)
    _store(builder, draft, goal.switch, replace(standing, isolated=True))
    draft.event("switch.maintenance", switch=goal.switch, phase="isolated")
    builder.add(draft)


def _bring_back(builder: Builder, name: str) -> None:
    standing = builder.now.maintenance.get(name)
    if standing is None:
        return
    if not standing.over and name not in builder.now.switches:
        raise PlanRefused(fault(PATH, name, "a switch that is connected to the controller: it is filled and checked"))
    if standing.isolated:
        draft = Draft(f"open switch {name}", RETURN)
        standing = replace(standing, isolated=False)
        _store(builder, draft, standing.switch, standing)
        draft.event("switch.maintenance", switch=name, phase="unused")
        builder.add(draft)
    away = {host: nics for host, nics in standing.avoid.items() if host not in builder.now.present}
    if standing.over and away == standing.avoid:
        return
    later = f" (not yet: {listed(sorted(away))})" if away else ""
    draft = Draft(f"use switch {name} again{later}", RETURN)
    _store(builder, draft, name, replace(standing, over=True, avoid=away) if away else None)
    _prefer(builder, draft)
    draft.event("switch.maintenance", switch=name, phase="used")
    builder.add(draft)


def _store(builder: Builder, draft: Draft, switch: str, state: Maintenance | None) -> None:
    """Store how a switch stands, and let the controller know."""
    inventory = builder.now.inventory
    assert inventory is not None
    draft.change(maintenance_document(switch), state.document() if state is not None else None)
    draft.hold("inventory")
    after = builder.now.folded(draft.changes)
    draft.intend("admit", "inventory", inventory.for_controller(after.maintenance))


def _prefer(builder: Builder, draft: Draft) -> None:
    """Tell each connected host whose NICs to avoid change with this transaction."""
    old, new = _told(builder.now), _told(builder.now.folded(draft.changes))
    for host in sorted(builder.now.present & (old.keys() | new.keys())):
        if old.get(host, ()) != new.get(host, ()):
            draft.prefer(host, new.get(host, ()))


def _told(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """The NICs that each host was told to avoid, over all switches."""
    told: dict[str, set[str]] = {}
    for state in snapshot.maintenance.values():
        for host, nics in state.avoid.items():
            told.setdefault(host, set()).update(nics)
    return {host: tuple(sorted(nics)) for host, nics in told.items()}


def _avoidable(inventory: Inventory, snapshot: Snapshot, switch: str) -> dict[str, tuple[str, ...]]:
    """NICs on a switch, of hosts that are connected and have another switch."""
    found = {}
    for name, host in sorted(inventory.hosts.items()):
        nics = tuple(item.nic for item in host.attachments if item.at.switch == switch)
        if nics and len(nics) < len(host.attachments) and name in snapshot.present:
            found[name] = nics
    return found


def follow(builder: Builder, draft: Draft, inventory: Inventory) -> None:
    """Let the switches that are out of use, and what hosts were told of them, follow a change of the inventory."""
    for name, state in builder.now.maintenance.items():
        kept = {host: nics for host, nics in state.avoid.items() if host in inventory.hosts}
        if not state.over:
            away = {host: nics for host, nics in kept.items() if host not in builder.now.present}
            kept = {**away, **_avoidable(inventory, builder.now, name)}
        gone = name not in inventory.fabric.switches or (state.over and not kept)
        now = replace(state, avoid=kept)
        if gone or now != state:
            draft.change(maintenance_document(name), None if gone else now.document())
    _prefer(builder, draft)


def _objections(inventory: Inventory, snapshot: Snapshot, goal: MaintenanceGoal) -> Iterator[Fault]:
    """Why the switch cannot be spared, all reasons."""
    name, fabric = goal.switch, inventory.fabric
    for other in sorted(snapshot.unused().keys() - {name}):
        yield fault(PATH, name, f"no other switch out of use: {other} is (odysseyctl switch maintenance {other} off)")
    ports = {host.name: {item.at.switch for item in host.attachments} for host in inventory.hosts.values()}
    ports = {f"host {host}": switches for host, switches in ports.items()}
    ports |= {f"border {border.name}": {port.switch for port in border.ports} for border in fabric.borders.values()}
    stations = {station: switches for station, switches in ports.items() if switches}
    replacing = {other for switches in stations.values() if name in switches for other in switches} - {name}
    for other in sorted(replacing - snapshot.switches):
        yield fault(PATH, name, f"{other} connected to the controller: it takes over what hangs on {name}")
    if goal.force:
        return
    if name not in snapshot.switches:
        yield fault(PATH, name, f"a switch that is connected: else nobody sees what still uses it ({_ANYWAY})")
    if alone := sorted(station for station, switches in stations.items() if switches == {name}):
        yield fault(PATH, name, f"another switch for what hangs on this one alone: {listed(alone)} ({_ANYWAY})")
    if pair := cut_off(fabric, stations, name, snapshot.unused().keys()):
        yield fault(PATH, name, f"another way between {pair[0]} and {pair[1]} ({_ANYWAY})")
    yield from _absent(inventory, snapshot, name)


def _absent(inventory: Inventory, snapshot: Snapshot, name: str) -> Iterator[Fault]:
    """Hosts with nodes that cannot be told to leave the switch."""
    with_nodes = {node.host for node in snapshot.nodes.values()}
    hosts = {host.name for host in inventory.hosts.values() if host.ports_on(name)}
    if away := sorted(hosts & with_nodes - snapshot.present):
        yield fault(PATH, name, f"the agents of {listed(away)} to be connected: they make nodes leave it ({_ANYWAY})")
