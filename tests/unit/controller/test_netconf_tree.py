# SPDX-License-Identifier: AGPL-3.0-or-later
"""Configuration as values: reading, comparing, rendering, and what each data model says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from controller.netconf.alliedtelesis_model import AlliedTelesisModel
from controller.netconf.changes import OpenChange, tree_from_json, tree_to_json
from controller.netconf.datamodel import DataModel, Target
from controller.netconf.device import DeviceConfig
from controller.netconf.nexus_model import NexusModel
from controller.netconf.tree import (
    BASE,
    OPERATION,
    Difference,
    Element,
    canonical,
    pieces,
    read,
    render,
    text,
)
from tests.netconf import samples

NEXUS, ALLIED = NexusModel(), AlliedTelesisModel()
CASES: list[tuple[DataModel, Any]] = [(NEXUS, samples.nexus), (ALLIED, samples.allied)]
IDS = ["nexus9000", "alliedtelesis"]


def target(document: dict[str, Any], before: dict[str, Any] | None = None) -> Target:
    earlier = DeviceConfig.parse(before) if before is not None else None
    return Target.of(earlier, DeviceConfig.parse(document))


def everything(model: DataModel, wanted: Target) -> Element:
    """What a device would hold that was told all of a wish and nothing else."""
    config = render(Difference(model.values(wanted)), model.shape)
    return ElementTree.fromstring(ElementTree.tostring(config))


@pytest.mark.parametrize(("model", "sample"), CASES, ids=IDS)
def test_a_sample_matches_the_schema_and_names_nothing_that_is_not_owned(model: DataModel, sample: Any) -> None:
    operation = {"prepare": None, "stages": {"admit": {"changes": {"device/sw1": sample()}}}}
    assert schemas.validate("netconf-operation", operation) == ()
    config = DeviceConfig.parse(sample())
    assert config.faults() == [] and model.refusals(config) == []


@pytest.mark.parametrize(("model", "sample"), CASES, ids=IDS)
def test_what_is_rendered_is_read_as_the_same(model: DataModel, sample: Any) -> None:
    wanted = target(sample())
    tree = model.read(everything(model, wanted), wanted)
    assert tree == model.values(wanted)
    assert not model.difference(tree, wanted)
    assert tree_from_json(tree_to_json(tree)) == tree


@pytest.mark.parametrize(("model", "sample"), CASES, ids=IDS)
@given(before=st.sets(st.integers(100, 199), max_size=6), after=st.sets(st.integers(100, 199), max_size=6))
def test_a_difference_leads_from_any_wish_to_any_other_and_its_exact_opposite_back(
    model: DataModel, sample: Any, before: set[int], after: set[int]
) -> None:
    one = target(sample({**{number: f"n{number}" for number in before | {110}}, 4000: "transit"}))
    other = target(sample({**{number: f"m{number}" for number in after | {110}}, 4000: "transit"}))
    start = model.values(one)
    there = changed(start, model.difference(start, other))
    assert not model.difference(there, other)
    back = changed(there, model.difference(there, other.back_to(start)))
    assert not model.difference(back, one) and back == start
    planned = model.planned(one.config, other.config)
    assert not model.difference(changed(start, planned), Target.of(one.config, other.config))
    assert not model.difference(changed({}, model.planned(None, one.config)), one)


def changed(tree: Any, done: Difference) -> Any:
    """What a device holds after a difference was carried out (RFC 6241, section 7.2)."""
    left = {
        path: node for path, node in tree.items()
        if not any(path[: len(gone)] == gone for gone in done.remove)
    }  # fmt: skip
    for path, tags in done.clear.items():
        left[path] = {tag: value for tag, value in left[path].items() if tag not in tags}
    for path, node in done.set.items():
        left[path] = dict(node) if path in done.replace else {**left.get(path, {}), **node}
    return left


@pytest.mark.parametrize(("model", "sample"), CASES, ids=IDS)
def test_what_is_foreign_is_neither_read_nor_removed(model: DataModel, sample: Any) -> None:
    theirs = sample({300: "theirs", 4000: "odyssey-transit"})
    theirs["owned"]["vlans"].append({"from": 300, "to": 300})
    held = read(everything(model, target(theirs)), model.shape)
    ours = target(sample())
    seen = model.read(everything(model, target(theirs)), ours)
    assert any("300" in text(path) for path in held) and not any("300" in text(path) for path in seen)
    assert not any("300" in text(path) for path in model.difference(seen, ours).paths())


def test_a_wish_outside_of_what_is_owned_is_refused_by_the_last_guard() -> None:
    wish = samples.nexus({300: "theirs", 4000: "odyssey-transit"})
    with pytest.raises(ValueError, match="300"):
        NEXUS.difference({}, target(wish))
    assert any("VLAN 300" in reason for reason in DeviceConfig.parse(wish).faults())


def test_what_is_missing_or_makes_no_sense_in_a_wish_is_named() -> None:
    wish = samples.nexus()
    wish["ports"] |= {
        "eth1/9": {"description": "x", "trunk": [110]},
        "eth1/2": {"description": "x", "trunk": [199], "acl": "nobody"},
        "eth1/1": {"description": "x"},
    }
    assert DeviceConfig.parse(wish).faults() == [
        "interface eth1/9 is not owned",
        "eth1/1: an interface that carries no VLAN has to be disabled",
        "eth1/2: VLAN 199 is not there",
        "eth1/2: there is no access list nobody",
    ]


def test_a_device_is_refused_what_its_model_has_not() -> None:
    wish = samples.nexus(openflowPorts=["eth1/1"])
    wish["ports"]["eth1/1"]["mtu"] = 4000
    assert [reason.split(":")[0] for reason in NEXUS.refusals(DeviceConfig.parse(wish))] == [
        "the OpenFlow agent of a Nexus is not in its NETCONF model (9.3-2 has no type for it)", "eth1/1"
    ]  # fmt: skip
    wish = samples.nexus()
    assert len(ALLIED.refusals(DeviceConfig.parse(wish))) == 3


def test_an_interface_that_leaves_is_shut_and_one_that_stays_is_not() -> None:
    fewer = samples.nexus()
    del fewer["ports"]["eth1/1"]
    values = NEXUS.values(target(fewer, samples.nexus()))
    states = {path[-1].key: node.get(f"{{{namespace(path[0].tag)}}}adminSt") for path, node in values.items()}
    assert states["eth1/1"] == "down" and states["eth1/2"] == "up"


def namespace(tag: str) -> str:
    return tag[1:].partition("}")[0]


def test_what_leaves_without_a_range_of_its_own_is_still_removed() -> None:
    before = samples.nexus(owned={"vlans": [{"from": 110, "to": 120}, {"from": 4000, "to": 4000}],
                                  "ports": [*samples.PORTS["nexus9000"]]})  # fmt: skip
    after = samples.nexus(samples.WEB, owned={"vlans": [{"from": 110, "to": 110}, {"from": 4000, "to": 4000}],
                                              "ports": [*samples.PORTS["nexus9000"]]})  # fmt: skip
    have = NEXUS.values(target(before))
    found = NEXUS.difference(have, target(after, before))
    assert [text(path) for path in found.remove] == ["/System/bd-items/bd-items/BD-list[vlan-120]"]


@pytest.mark.parametrize(
    ("written", "meant"), [("110,111,112,120", "110-112,120"), ("120,110-112", "110-112,120"), ("none", ""), ("", "")]
)
def test_ranges_of_vlans_are_compared_by_what_they_mean(written: str, meant: str) -> None:
    tag = "{http://cisco.com/ns/yang/cisco-nx-os-device}trunkVlans"
    path = next(path for path in NEXUS.values(target(samples.nexus())) if path[-1].key == "eth1/1")
    assert NEXUS.normal({path: {tag: written}})[path][tag] == meant


def test_an_access_list_ends_with_a_written_refusal_in_both_families() -> None:
    entries = [
        (path[3].tag.rpartition("}")[2] if len(path) > 3 else "", path[-1].key, dict(node))
        for path, node in NEXUS.values(target(samples.nexus())).items()
        if path[-1].tag.endswith("}ACE-list") and "odyssey-hosts" in text(path)
    ]
    actions = [{tag.rpartition("}")[2]: value for tag, value in node.items()} for _, _, node in entries]
    assert [(one["action"], one["srcPrefix"], one["srcPrefixLength"]) for one in actions] == [
        ("permit", "172.16.20.0", "24"), ("deny", "0.0.0.0", "0"),
        ("permit", "2001:db8:20::", "64"), ("deny", "::", "0"),
    ]  # fmt: skip


def test_large_differences_are_cut_in_an_order_that_is_safe_at_every_moment() -> None:
    many = {number: f"network-{number}" for number in range(100, 199)}
    before, after = target(samples.allied({**many, 4000: "t"})), target(samples.allied())
    have = ALLIED.values(before)
    found = ALLIED.difference(have, after)
    parts = pieces(found, ALLIED.shape, 4000, ALLIED.rank)
    assert len(parts) > 3
    assert all(len(ElementTree.tostring(render(part, ALLIED.shape))) < 6000 for part in parts)
    assert {path for part in parts for path in part.paths()} == set(found.paths())
    removing = [bool(part.remove) for part in parts]
    assert removing == sorted(removing)
    trees = [have]
    for part in parts:
        trees.append(changed(trees[-1], part))
    assert not ALLIED.difference(trees[-1], after)


def test_an_edit_says_what_it_removes() -> None:
    found = NEXUS.difference(NEXUS.values(target(samples.nexus())), target(samples.nexus(samples.WEB)))
    config = render(found, NEXUS.shape)
    removed = [element for element in config.iter() if element.get(OPERATION) == "remove"]
    assert [canonical(element) for element in removed] == [
        "<{http://cisco.com/ns/yang/cisco-nx-os-device}BD-list>"
        "<{http://cisco.com/ns/yang/cisco-nx-os-device}fabEncap>vlan-120</></>"
    ]
    assert found.lines()[-1] == "- /System/bd-items/bd-items/BD-list[vlan-120]"


@pytest.mark.parametrize(("model", "sample"), CASES, ids=IDS)
@given(before=st.sets(st.integers(100, 199), max_size=6), after=st.sets(st.integers(100, 199), max_size=6))
def test_what_people_see_of_a_difference_is_all_of_it_with_both_values(
    model: DataModel, sample: Any, before: set[int], after: set[int]
) -> None:
    one = target(sample({**{number: f"n{number}" for number in before | {110}}, 4000: "transit"}))
    other = target(sample({**{number: f"m{number}" for number in after | {110}}, 4000: "transit"}))
    have = model.values(one)
    changes = model.difference(have, other).changes()
    assert len({(change.op, change.path) for change in changes}) == len(changes)
    for change in changes:
        assert {"+": change.has is None, "-": change.shall is None, "~": change.has != change.shall}[change.op], change
        assert change.op != "~" or (change.has and change.shall), change
    names = {change.path: (change.has, change.shall) for change in changes if change.path.endswith("/name")}
    kept = [(f"n{number}", f"m{number}") for number in (before | {110}) & (after | {110})]
    assert {pair for pair in names.values() if pair[0] is not None} == set(kept)
    back = model.difference(model.values(other), one.back_to(have)).changes()
    turned = {(change.path, change.shall, change.has) for change in back if change.op == "~"}
    assert turned == {(change.path, change.has, change.shall) for change in changes if change.op == "~"}


def test_a_container_that_is_sent_whole_is_shown_by_what_changes_in_it() -> None:
    have = ALLIED.values(target(samples.allied()))
    access = samples.allied()
    access["ports"]["port1.0.1"] = {"description": "odyssey host h1 eth0", "access": 110}
    where = "/interfaces/interface[port1.0.1]/ethernet/switched-vlan/config"
    assert sorted(ALLIED.difference(have, target(access)).lines()) == [
        f"+ {where}/access-vlan = 110",
        f"- {where}/trunk-vlans = 110,120",
        f"~ {where}/interface-mode = TRUNK -> ACCESS",
    ]


def test_a_tree_does_not_depend_on_order_and_spaces() -> None:
    one = ElementTree.fromstring(f'<data xmlns="{BASE}"><a> <b>1</b><c/></a></data>')
    other = ElementTree.fromstring(f'<data xmlns="{BASE}"><a><c></c><b> 1 </b>\n</a></data>')
    assert canonical(one) == canonical(other)
    assert read(one, NEXUS.shape) == read(other, NEXUS.shape)


def test_another_kind_of_device_under_the_same_name_starts_anew() -> None:
    operation = {"stages": {"admit": {"changes": {"device/sw1": samples.allied()}}}}
    change = OpenChange.of("t1", 1, operation, {"sw1": samples.nexus()})
    assert change.targets["sw1"].released == {}
    same = OpenChange.of("t1", 1, operation, {"sw1": samples.allied({130: "old", 4000: "t"})})
    assert replace(same.targets["sw1"], tree=None).owned.vlan(130)
