# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Open vSwitch says that it does with random fabrics (``ofproto/trace`` on a dummy datapath; no root needed)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain

import pytest

from controller.changes import FlowChange, difference
from controller.compiler import Compilation
from controller.evaluate import Fabric
from controller.families import IPV4
from controller.flows import TCP_ACK, TCP_SYN
from tests.fabric_check.case import Case
from tests.fabric_check.cases import Shape
from tests.fabric_check.failures import Failures
from tests.fabric_check.mutations import MUTATIONS
from tests.fabric_check.openvswitch import Availability, OpenVSwitch
from tests.fabric_check.run import Effort, run
from tests.unit.controller import samples
from tests.unit.controller import test_controller_balancing as balancing

MISSING = Availability.here().missing
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
SHAPE = Shape(("openvswitch",), mixed=0.0)


@pytest.fixture(scope="module")
def switches() -> Iterator[OpenVSwitch]:
    with OpenVSwitch() as running:
        yield running


def test_open_vswitch_does_what_the_policy_says(switches: OpenVSwitch) -> None:
    report = run(range(1000, 1024), Effort(packets=40, traces=40), SHAPE, switches)
    assert not report.mismatches, report
    assert report.traces > 400 and report.delivered > 100


def test_fast_failover_does_what_the_evaluator_says(switches: OpenVSwitch) -> None:
    for seed in range(1, 9):
        case = Case.of(seed, SHAPE)
        switches.load(case.fabric.tables)
        found = list(Failures(case).traced(switches, sets=4, packets=12))
        assert not found, str(found[0])


@pytest.mark.parametrize("name", ["a pin without the port", "no hairpin", "answers with another MAC", "swapped MACs"])
def test_a_planted_fault_is_found_by_a_trace(switches: OpenVSwitch, name: str) -> None:
    for seed in range(1, 20):
        sound = Case.of(seed, SHAPE)
        case = Case(seed, sound.documents, MUTATIONS[name](sound.compilation.tables))
        suspects = [shot for shot in case.shots(200) if next(case.mismatches([shot]), None)]
        if suspects:
            switches.load(case.fabric.tables)
            assert next(chain(case.traced(suspects, switches)), None) is not None
            return
    pytest.fail(f"no case shows it: {name}")


def test_the_command_counts_as_json() -> None:
    command = [sys.executable, "-m", "tests.fabric_check", "--cases", "3", "--traces", "5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["cases"] == 3 and report["mismatches"] == 0 and report["packets"] > 100 and report["traces"] > 5


def test_connections_to_a_service_are_learned_and_stay(switches: OpenVSwitch) -> None:
    """Even source ports reach every member; when slots move, what is open stays and what is new does not."""
    members = [balancing.node(number) for number in range(1, 9)]
    names = [member["node"] for member in members]
    old, new = (balancing.served(slots, members) for slots in (names, [names[0]] * 8))
    ports = range(32768, 33168, 2)
    switches.load(old.tables)
    opened = {port: receiver(switches, old, port, TCP_SYN) for port in ports}
    share = Counter(opened.values())
    assert set(share) == set(names) and min(share.values()) > len(ports) / 8 / 2, share
    changed = {switch: difference(old.tables[switch], new.tables[switch]) for switch in new.tables}
    for switch, changes in changed.items():
        for change in changes:
            assert isinstance(change, FlowChange) and change.op == "+"
            switches.add(switch, change.entry)
    assert {port: receiver(switches, new, port, TCP_ACK) for port in ports} == opened
    assert {receiver(switches, new, port, TCP_SYN) for port in range(40000, 40100, 2)} == {names[0]}


def receiver(switches: OpenVSwitch, compilation: Compilation, source_port: int, flags: int) -> str | None:
    """Return the node to which Open vSwitch sends a packet of a connection to the service."""
    intent = compilation.intent
    assert intent.inventory is not None
    packet = samples.packet(intent, balancing.CLIENT, "edge", **samples.ack(source_port, 8080, flags))
    packet["ipv4_dst"] = balancing.SERVICE[IPV4]
    links = Fabric.of(compilation.tables, intent.inventory).links
    sent = switches.outcome(packet, balancing.ENTRANCE, links, learn=True).sent
    macs = {binding.mac: name for name, binding in intent.bindings.items()}
    return macs[sent[0][1]["eth_dst"]] if sent else None
