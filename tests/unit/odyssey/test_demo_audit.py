# SPDX-License-Identifier: AGPL-3.0-or-later
"""The audit finds each kind of half-done thing, and nothing where all is explained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from odyssey.demo.audit import Records, Seen, half_done
from odyssey.demo.observe import POOL, SANDBOX, WORKLOAD, Container, Flow, classify, parse_flows


def binding(switch: str, address: str) -> Flow:
    parts = [int(part) for part in address.split(".")]
    owner = int.from_bytes(bytes(parts), "big")
    return Flow(switch, 0x0D << 56 | 1 << 48 | owner << 16 | 7, 0, 9.0, f"table=30, ip,nw_dst={address} actions=drop")


def node(name: str, address: str, host: str = "h1", phase: str = "admitted") -> dict[str, Any]:
    network = name.split("-")[1]
    return {"node": name, "platform": "shop", "network": network, "host": host, "address": address, "phase": phase}


def pair(name: str, host: str = "h1", tx: str = "call.1") -> list[Container]:
    return [
        Container(host, f"{name}-1", f"{name}.sandbox", name, SANDBOX, tx, True),
        Container(host, f"{name}-2", name, name, WORKLOAD, tx, True),
    ]


RECORDS = Records(
    documents={
        "node/shop-lb-1": node("shop-lb-1", "172.16.10.2"),
        "node/shop-app-1": node("shop-app-1", "172.16.20.2", "h2"),
        "node/shop-app-2": node("shop-app-2", "172.16.20.3", "h2", "standby"),
        "network/shop/lb": {"id": 1, "count": 1},
        "network/shop/app": {"id": 2, "count": 1},
    },
    transactions=[
        {"id": "call.1", "state": "committed", "finished": True},
        {"id": "call.2", "state": "aborted", "finished": True},
    ],
)
SEEN = Seen(
    containers=[*pair("shop-lb-1"), *pair("shop-app-1", "h2"), *pair("shop-app-2", "h2")],
    flows=[binding(switch, address) for switch in ("sw1", "sw2") for address in ("172.16.10.2", "172.16.20.2")],
    switches=["sw1", "sw2"],
    neighbours={"shop-lb-1": {"dependencies": {"app": {"nodes": [{"node": "shop-app-1", "address": "172.16.20.2"}]}}}},
    links={"h1": [], "h2": []},
)


def only(records: Records, seen: Seen) -> str:
    found = half_done(records, seen)
    assert len(found) == 1, found
    return found[0]


def test_what_decisions_explain_is_not_half_done() -> None:
    assert half_done(RECORDS, SEEN) == ()


def test_a_container_that_no_record_places() -> None:
    stray = [*SEEN.containers, pair("shop-app-3")[0]]
    assert "shop-app-3.sandbox on h1: no record" in only(RECORDS, replace(SEEN, containers=stray))


def test_a_container_of_an_aborted_transaction() -> None:
    wrong = [*SEEN.containers[:1], replace(SEEN.containers[1], tx="call.2"), *SEEN.containers[2:]]
    assert "call.2 is not committed" in only(RECORDS, replace(SEEN, containers=wrong))


def test_a_sandbox_that_was_made_ahead_names_no_transaction() -> None:
    ahead = [replace(SEEN.containers[0], tx=""), *SEEN.containers[1:]]
    pool = Container("h1", "abc", "odyssey-pool-1a2b", "", POOL, "", True)
    assert half_done(RECORDS, replace(SEEN, containers=[*ahead, pool])) == ()
    assert classify("odyssey-pool-1a2b", {}) == ("", POOL)
    assert classify("shop-app-1.sandbox", {}) == ("shop-app-1", SANDBOX)
    assert classify("shop-app-1", {"odyssey.node": "shop-app-1"}) == ("shop-app-1", WORKLOAD)


def test_a_recorded_node_whose_workload_is_gone_or_stopped() -> None:
    gone = [*SEEN.containers[:1], *SEEN.containers[2:]]
    assert "0 workload containers" in only(RECORDS, replace(SEEN, containers=gone))
    stopped = [*SEEN.containers[:1], replace(SEEN.containers[1], running=False), *SEEN.containers[2:]]
    assert "shop-lb-1" in only(RECORDS, replace(SEEN, containers=stopped))


def test_flow_entries_of_nobody_and_missing_ones() -> None:
    more = [*SEEN.flows, binding("sw2", "172.16.20.3")]
    assert only(RECORDS, replace(SEEN, flows=more)).startswith("sw2: 1 flow entries for 172.16.20.3")
    assert only(RECORDS, replace(SEEN, flows=SEEN.flows[1:])).startswith("sw1: no flow entry for the admitted node")


def test_an_open_transaction_and_what_it_reserves() -> None:
    still = {"id": "call.3", "state": "preparing", "finished": False, "objects": ["node/shop-app-3"]}
    found = half_done(replace(RECORDS, transactions=[*RECORDS.transactions, still]), SEEN)
    assert found == (
        "transaction call.3 is preparing and not finished",
        "node/shop-app-3 is still reserved by call.3",
    )


def test_a_count_that_the_nodes_do_not_have() -> None:
    documents = {**RECORDS.documents, "network/shop/app": {"id": 2, "count": 2}}
    assert "is to have 2 nodes and 1 are recorded" in only(replace(RECORDS, documents=documents), SEEN)


def test_a_node_that_was_told_wrong_neighbours() -> None:
    told: dict[str, Any] = {"shop-lb-1": {"dependencies": {"app": {"nodes": []}}}}
    assert only(RECORDS, replace(SEEN, neighbours=told)).startswith("shop-lb-1 was told that app is []")


def test_a_nic_that_is_left_over() -> None:
    assert "NIC t0abc is left over" in only(RECORDS, replace(SEEN, links={"h1": ["t0abc"], "h2": []}))


def test_flow_entries_as_the_switch_prints_them() -> None:
    printed = (
        "OFPST_FLOW reply (OF1.3) (xid=0x2):\n"
        " cookie=0xd01ac1014030007, duration=12.345s, table=0, n_packets=3, n_bytes=222, idle_age=2, "
        "priority=200,ip,in_port=1,nw_src=172.16.20.3 actions=goto_table:10\n"
        " cookie=0xd00000000000001, duration=3s, table=0, n_packets=0, n_bytes=0, priority=0 actions=drop\n"
    )
    pin, miss = parse_flows("sw1", printed)
    assert (pin.node_address, pin.packets, pin.age) == ("172.16.20.3", 3, 12.345)
    assert pin.rule == "table=0, priority=200,ip,in_port=1,nw_src=172.16.20.3 actions=goto_table:10"
    assert miss.node_address is None
