# SPDX-License-Identifier: AGPL-3.0-or-later
"""Small clusters for the tests of the model, the planner and the services, and participants that obey a plan."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

import schemas
from odyssey.model import Snapshot
from odyssey.model.apart import not_apart
from odyssey.model.ipam import address6_of
from odyssey.model.naming import CONTROLLER
from odyssey.model.profiles import PROFILES
from odyssey.planning import DrainStep, Goal, Plan, PlanOptions, PlanRefused, QuietStep, Step, plan, resolve
from odyssey.planning.documents import dependencies
from odyssey.planning.whole import whole_intent
from odyssey.services.wish import ApplyPlatform, Wish

Json = dict[str, Any]
ROOT = Path(__file__).parents[3]
EDGE: Json = {
    "ports": [{"switch": "sw1", "port": 201}],
    "prefix": "203.0.113.0/24",
    "gateway": "203.0.113.1",
    "peer": {"address": "203.0.113.2", "mac": "02:cc:00:00:00:01"},
}


def inventory(
    hosts: int = 3, *, cpus: float = 8, memory: int = 8192, nodes: int = 50, profile: str = "openvswitch", **more: Any
) -> Json:
    """The lab with any number of hosts; host i has label zone = z<i>. `more` stands in each switch.

    Frames are tagged where the switches cannot push VLANs.
    """
    tagged = {"tagged": True} if PROFILES[profile].needs_tagged else {}
    switches = {f"sw{n}": {"datapathId": f"{n:016x}", "profile": profile, "maxEntries": 1000, **more} for n in (1, 2)}
    return {
        "cluster": "lab",
        "fabric": {
            "mac": "02:fa:00:00:00:01",
            "gateway": "169.254.1.1",
            "transitVlan": 4000,
            "mtu": 1500,
            "switches": switches,
            "links": [{"a": {"switch": "sw1", "port": 101}, "b": {"switch": "sw2", "port": 101}}],
            "borders": {"edge": deepcopy(EDGE)},
        },
        "hosts": {
            f"h{n}": {
                "labels": {"zone": f"z{n}"},
                "capacity": {"cpus": cpus, "memoryMiB": memory, "nodes": nodes},
                "attachments": [
                    {"nic": "eth0", "switch": "sw1", "port": n, **tagged},
                    {"nic": "eth1", "switch": "sw2", "port": n, **tagged},
                ],
            }
            for n in range(1, hosts + 1)
        },
    }


def opening(*ports: int) -> Json:
    """TCP ports as a platform document opens them."""
    return {"ports": [{"protocol": "tcp", "port": port} for port in ports]}


def network(number: int, *, count: int | None = 1, most: int = 8, standby: int = 0, **more: Any) -> Json:
    """The document of a network; `number` gives its subnet and VLAN."""
    scale = {"min": 0, "max": most, "standby": standby} | ({} if count is None else {"count": count})
    document: Json = {
        "subnet": f"10.{number}.0.0/24",
        "vlan": 100 + number,
        "image": "demo:1",
        "scale": scale,
        "health": {"type": "tcp", "port": 80},
        "resources": {"cpus": 0.5, "memoryMiB": 128},
    }
    return document | more


def platform(networks: Mapping[str, Json], name: str = "shop") -> Json:
    """A platform document."""
    return {"platform": name, "networks": dict(networks)}


def shop() -> Json:
    """The example of the documentation."""
    document: Json = json.loads((ROOT / "examples/shop/platform.json").read_text(encoding="utf-8"))
    return document


def snapshot(
    documents: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    hosts: int = 3,
    index: int = 0,
    images: Iterable[str] = ("demo:1", "shop-lb:1", "shop-app:1", "shop-db:1"),
    absent: Iterable[str] = (),
    **more: Any,
) -> Snapshot:
    """A snapshot of the lab in which every host is connected and has every image."""
    documents = {"inventory": inventory(hosts)} if documents is None else documents
    names = [f"h{n}" for n in range(1, hosts + 1)]
    known = {reference: f"sha256:{n:064x}" for n, reference in enumerate(images)}
    switches = documents["inventory"]["fabric"]["switches"] if "inventory" in documents else ()
    return Snapshot.from_documents(
        index,
        documents,
        images=dict.fromkeys(names, known),
        present=frozenset({*names, CONTROLLER}.difference(absent)),
        **{"switches": frozenset(switches), **more},
    )


def service(number: int, slots: int = 8, *, six: bool = False) -> Json:
    """What a network with this number has besides, for a service address."""
    found: Json = {"service": {"address": f"10.{number}.0.1", "slots": slots}}
    if six:
        found["subnet6"] = f"fd00:0:0:{number}::/64"
        found["service"]["address6"] = f"fd00:0:0:{number}::1"
    return found


class World:
    """Agents and a controller that carry out plans and check that every operation is well formed."""

    def __init__(self, start: Snapshot | None = None) -> None:
        self.state = start if start is not None else snapshot()
        self.containers: dict[str, set[str]] = {}
        self.files: dict[str, Json] = {}
        self.intent: dict[str, Any] = {}
        self.avoid: dict[str, list[str]] = {}

    def copy(self) -> World:
        """An independent copy."""
        other = World(self.state)
        other.containers = {host: set(nodes) for host, nodes in self.containers.items()}
        other.files, other.intent, other.avoid = dict(self.files), dict(self.intent), dict(self.avoid)
        return other

    def wish(self, wish: Wish, options: PlanOptions | None = None) -> Plan:
        """Resolve, plan and carry out."""
        goal = resolve(wish, self.state)
        made = plan(self.state, goal, options)
        for step in made.steps:
            self.carry_out(step)
        return made

    def reach(self, goal: Goal, options: PlanOptions | None = None) -> Plan:
        """Plan and carry out."""
        made = plan(self.state, goal, options)
        for step in made.steps:
            self.carry_out(step)
        return made

    def carry_out(self, step: Step) -> None:
        """Do one step as real participants would."""
        if isinstance(step, QuietStep):
            _check_quiet(self, step)
            return
        if isinstance(step, DrainStep):
            for node, host in step.nodes:
                assert node in self.containers[host]
                assert self.state.nodes[node].phase == "draining"
            return
        assert step.participants, step.title
        assert len(step.nodes) == len(set(step.nodes)), "a node is named twice"
        assert not self.state.reserved.intersection(step.objects)
        started = {spec["node"] for item in step.participants.values() for spec in _starts(item)}
        dark = step.participants.get(CONTROLLER, {"prepare": {"dark": {}}})["prepare"]["dark"]
        assert set(dark) == {f"binding/{node}" for node in started}
        for name, operation in step.participants.items():
            schemas.check("controller-operation" if name == CONTROLLER else "agent-operation", operation)
            assert set(operation["stages"]) <= set(step.stages)
            self._prepare(name, operation)
        for stage in step.stages:
            for name, operation in step.participants.items():
                if stage in operation["stages"]:
                    self._commit(name, stage, operation["stages"][stage])
        for event in step.events:
            schemas.check("event", event)
        self.state = self.state.folded(step.changes)

    def _prepare(self, name: str, operation: Mapping[str, Any]) -> None:
        if name == CONTROLLER:
            merged: Json = {}
            for stage in operation["stages"].values():
                merged |= stage["changes"]
            assert operation["prepare"]["changes"] == merged
            return
        for spec in _starts(operation):
            assert spec["node"] not in self.containers.setdefault(name, set()), "started twice"
            self.containers[name].add(spec["node"])
            self.files[spec["node"]] = spec["neighbours"]

    def _commit(self, name: str, stage: str, work: Json) -> None:
        if name == CONTROLLER:
            for key, document in work["changes"].items():
                if document is None:
                    self.intent.pop(key)
                else:
                    self.intent[key] = document
            return
        if stage == "prefer":
            self.avoid[name] = work["avoid"]
            return
        here = self.containers.setdefault(name, set())
        for node, file in work.get("files", {}).items():
            assert node in here
            assert file["revision"] > self.files[node]["revision"], "an older file would win"
            self.files[node] = file
        if stage == "admit":
            assert here.issuperset(work["nodes"]) and here.issuperset(work.get("standby", []))
        if stage == "stop":
            assert here.issuperset(work["nodes"])
            here.difference_update(work["nodes"])


def running(document: Json | None = None, **more: Any) -> World:
    """A world in which a platform runs, the shop if none is given."""
    world = World(snapshot(**more))
    world.wish(ApplyPlatform(document or shop()))
    return world


def titles(steps: tuple[Step, ...]) -> list[str]:
    """What the steps do."""
    return [step.title for step in steps]


def refusal(world: World, wish: Wish) -> dict[str, str]:
    """Path and message of each fault of a wish that is refused."""
    with pytest.raises(PlanRefused) as caught:
        plan(world.state, resolve(wish, world.state))
    return {fault.path: fault.message for fault in caught.value.faults}


def _check_quiet(world: World, step: QuietStep) -> None:
    """The hosts behind the ports avoid the switch by now, and no other switch uses it."""
    state = world.state
    assert state.inventory is not None
    assert world.intent["inventory"]["fabric"]["switches"][step.switch]["maintenance"]
    for name, host in state.inventory.hosts.items():
        for item in host.attachments:
            if item.at.switch == step.switch:
                assert item.at.port in step.ports
                alone = all(other.at.switch == step.switch for other in host.attachments)
                assert item.nic in world.avoid.get(name, []) or alone or name not in state.present


def _starts(operation: Mapping[str, Any]) -> list[Json]:
    started: list[Json] = (operation["prepare"] or {}).get("start", [])
    return started


def check(world: World) -> None:
    """Everything that must be true between any two steps."""
    state = world.state
    assert state.inventory is not None
    addresses = [node.address for node in state.nodes.values()]
    assert len(addresses) == len(set(addresses)), "two nodes with one address"
    _check_hosts(state)
    for host, nodes in world.containers.items():
        assert nodes == {node.name for node in state.nodes.values() if node.host == host}
    _check_intent(world)
    for node in state.nodes.values():
        definition = state.network(node.key)
        assert definition is not None
        assert node.address in definition.subnet
        assert node.mac == "02:00:" + ":".join(f"{byte:02x}" for byte in IPv4Address(node.address).packed)
        assert world.files[node.name]["dependencies"] == dependencies(state, definition), "neighbours are incomplete"
    for key, network_state in state.networks.items():
        ids = [other.id for other in state.networks.values()]
        assert ids.count(network_state.id) == 1, key
        _check_service(state, key)
    told: dict[str, list[str]] = {host: [] for host in world.avoid}
    for item in state.maintenance.values():
        for host, nics in item.avoid.items():
            told[host] = sorted({*told.get(host, []), *nics})
    assert world.avoid == told


def _check_service(state: Snapshot, key: str) -> None:
    """Slots name admitted members, each with a weight has one; pins name members that are admitted or draining."""
    definition, network_state = state.network(key), state.networks[key]
    assert definition is not None and state.inventory is not None
    if definition.service is None:
        assert not network_state.slots and not network_state.pins
        return
    for node in state.nodes_of(key):
        assert node.address != definition.service.address
        assert node.address6 == address6_of(definition.subnet, definition.subnet6, node.address)
        assert node.address6 is None or node.address6 != definition.service.address6
    serving = {node.name for node in state.admitted(key) if node.weight}
    assert set(network_state.slots) == serving
    assert len(network_state.slots) == (definition.service.slots if serving else 0)
    _check_pins(state, key, serving)


def _check_pins(state: Snapshot, key: str, serving: set[str]) -> None:
    definition, pins = state.network(key), state.networks[key].pins
    assert definition is not None and state.inventory is not None
    if not state.inventory.fabric.one_table:
        assert not pins
        return
    sources = [*state.dependents(key), *([key] if definition.peers else [])]
    clients = [node for source in sources for node in state.nodes_of(source, "admitted", "draining")]
    staying = {node.name for node in state.nodes_of(key, "admitted", "draining")}
    assert set(pins.values()) <= staying
    assert {f"{node.address}/32" for node in clients} <= set(pins) or not serving
    assert len(pins) == len(clients) + 8 * len(definition.exposed_to) or not serving


def _check_hosts(state: Snapshot) -> None:
    assert state.inventory is not None
    assert not list(not_apart(state.inventory, state.platforms, state.nodes.values())), "nodes that cannot talk"
    for host in state.inventory.hosts.values():
        nodes = [node for node in state.nodes.values() if node.host == host.name]
        needs = [definition.resources for node in nodes if (definition := state.network(node.key)) is not None]
        assert len(nodes) <= host.nodes
        assert sum(need.millicpus for need in needs) <= host.capacity.millicpus
        assert sum(need.memory for need in needs) <= host.capacity.memory


def _check_intent(world: World) -> None:
    expected = whole_intent(world.state)
    if "inventory" not in world.intent:  # it was there before the world began
        del expected["inventory"]
    assert world.intent == expected
