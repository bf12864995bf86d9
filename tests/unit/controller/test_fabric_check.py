# SPDX-License-Identifier: AGPL-3.0-or-later
"""Random fabrics do what the policy says; planted faults show that this check can fail."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

import schemas
from controller.fabric import Port
from controller.profiles import PROFILES
from tests.fabric_check.case import Case, Mismatch
from tests.fabric_check.cases import Shape, documents
from tests.fabric_check.failures import EVERY_COMBINATION, Failures
from tests.fabric_check.mutations import MUTATIONS
from tests.fabric_check.oracle import Oracle
from tests.fabric_check.run import Effort, run
from tests.unit.controller import samples

OPEN_VSWITCH = Shape(("openvswitch",), mixed=0.0)
#: Found with ports down only.
NEEDS_FAILURES = ("groups without a second choice", "a third walk")


def accounts(mismatches: list[Mismatch]) -> str:
    return "\n".join(str(one) for one in mismatches[:3])


def test_what_is_drawn_matches_the_schema() -> None:
    for seed in range(60):
        assert schemas.validate("controller-operation", {"stages": {"admit": {"changes": documents(seed)}}}) == ()


@pytest.mark.parametrize("profile", PROFILES)
def test_random_fabrics_do_what_the_policy_says(profile: str) -> None:
    report = run(range(1, 41), Effort(packets=200), Shape((profile,), mixed=0.0))
    assert not report.mismatches, accounts(report.mismatches)
    assert report.cases > 20 and report.packets > 2000 and report.delivered > 500, report


def test_nothing_of_ours_matches_what_comes_in_at_the_ports_of_others() -> None:
    for seed in range(1, 31):
        case = Case.of(seed, OPEN_VSWITCH)
        for switch, tables in case.compilation.tables.items():
            ours = case.inventory.ports(switch)
            for entry in tables:
                port = entry.match.get("in_port")
                assert entry.table > 0 or (port is not None and port[0] in ours), entry


def test_all_pairs_and_ports_of_some_fabrics() -> None:
    for seed in (2, 12):
        case = Case.of(seed, OPEN_VSWITCH)
        shots = case.shots(None)
        assert len(shots) > 1000
        found = list(case.mismatches(shots))
        assert not found, accounts(found)


def test_no_frame_comes_to_a_port_twice_and_one_cut_cable_loses_nothing() -> None:
    tried = every = 0
    for seed in range(1, 31):
        failures = Failures(Case.of(seed, Shape(("openvswitch",), mixed=0.0, most_switches=4)))
        every += len(failures.elements) <= EVERY_COMBINATION
        tried += sum(1 for _ in failures.combinations())
        found = list(failures.mismatches())
        assert not found, accounts(found)
    assert every > 5 and tried > 1000


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_planted_fault_is_found(name: str) -> None:
    for seed in range(1, 80):
        sound = Case.of(seed, OPEN_VSWITCH)
        tables = MUTATIONS[name](sound.compilation.tables)
        if tables == sound.compilation.tables:
            continue
        case = Case(seed, sound.documents, tables)
        found = case.mismatches(case.shots(300))
        if next(chain(found, Failures(case).mismatches() if name in NEEDS_FAILURES else ()), None) is not None:
            return
    pytest.fail(f"nobody noticed: {name}")


LB, APP, DARK, DB = "shop-lb-1", "shop-app-1", "shop-app-2", "shop-db-1"


@pytest.mark.parametrize(
    ("source", "target", "fields", "receiver"),
    [
        (LB, APP, samples.syn(40000, 8080), APP),
        (LB, APP, samples.syn(40000, 8081), None),
        (LB, DB, samples.syn(40000, 5432), None),
        (APP, LB, samples.ack(8080, 40000), LB),
        (APP, LB, samples.syn(8080, 40000), None),
        (APP, DB, samples.udp(40000, 5353), DB),
        (DB, APP, samples.udp(5353, 40000), APP),
        (LB, DARK, samples.syn(40000, 8080), None),
        (DARK, DB, samples.syn(40000, 5432), DB),
        (DARK, DB, samples.udp(40000, 5353), None),
        (DB, DARK, samples.ack(5432, 40000), DARK),
        (DB, DARK, samples.icmp(3), None),
        (DB, APP, samples.icmp(3), APP),
        (DB, APP, samples.icmp(8), None),
        (DB, LB, samples.icmp(3), None),
        ("edge", LB, samples.syn(40000, 80), LB),
        ("edge", APP, samples.syn(40000, 80), None),
        (LB, "edge", samples.ack(80, 40000), "edge"),
        (LB, "edge", samples.syn(40000, 80), None),
    ],
)
def test_the_oracle_by_hand(source: str, target: str, fields: dict[str, int], receiver: str | None) -> None:
    intent = samples.compiled(samples.shop(app_2="dark")).intent
    oracle = Oracle(intent, dict.fromkeys(("sw1", "sw2"), PROFILES["openvswitch"].capabilities))
    verdict = oracle.judge(samples.packet(intent, source, target, **fields), samples.entrances(intent, source)[0])
    assert [one.name for one in verdict.receivers] == ([] if receiver is None else [receiver])
    assert verdict.may_drop == (receiver is None)


def test_the_oracle_lets_nobody_send_in_another_name() -> None:
    intent = samples.compiled(samples.shop()).intent
    oracle = Oracle(intent, dict.fromkeys(("sw1", "sw2"), PROFILES["openvswitch"].capabilities))
    honest: dict[str, Any] = samples.packet(intent, LB, APP, **samples.syn(40000, 8080))
    other = samples.packet(intent, "shop-lb-2", APP, **samples.syn(40000, 8080))
    assert oracle.judge(honest, Port("sw1", 1)).receivers
    for port in (2, 3, 101, 201, 299):
        assert not oracle.judge(honest, Port("sw1", port)).receivers
    for field in ("eth_src", "ipv4_src"):
        assert oracle.judge({**honest, field: other[field]}, Port("sw1", 1)).counted == "spoof"
    for vlan in (0x1000, 0x1000 | 110, 0x1000 | 4000):
        assert not oracle.judge({**honest, "vlan_vid": vlan}, Port("sw1", 1)).receivers
