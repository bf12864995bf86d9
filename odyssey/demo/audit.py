# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finds what no committed decision explains. Pure: what the records say beside what was seen.

The records are odysseyd's state documents and transactions; what was seen comes from the engines, the switches and the
containers' files (`observe.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odyssey.demo.observe import POOL, SANDBOX, WORKLOAD, Container, Flow

IN_SWITCHES = frozenset({"admitted", "draining"})  # phases in which a node has flow entries


@dataclass(frozen=True, slots=True)
class Records:
    """What odysseyd holds: state documents by key, and its transactions (all that are kept)."""

    documents: Mapping[str, Mapping[str, Any]]
    transactions: Sequence[Mapping[str, Any]]

    def nodes(self) -> dict[str, Mapping[str, Any]]:
        """The node documents by node name."""
        return {key.removeprefix("node/"): value for key, value in self.documents.items() if key.startswith("node/")}

    def open(self) -> list[Mapping[str, Any]]:
        """Transactions that are not finished: preparing, or decided and not yet carried out everywhere."""
        return [record for record in self.transactions if not record["finished"]]

    def committed(self) -> frozenset[str]:
        """The ids of committed transactions."""
        return frozenset(record["id"] for record in self.transactions if record["state"] == "committed")


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found outside of odysseyd.

    `neighbours`: the neighbour document inside each running node. `links`: NICs that were made for nodes and are
    where no node is, by place: a host's own namespace, or a sandbox in the pool.
    """

    containers: Sequence[Container]
    flows: Sequence[Flow]
    switches: Sequence[str]
    neighbours: Mapping[str, Mapping[str, Any]]
    links: Mapping[str, Sequence[str]]


def half_done(records: Records, seen: Seen) -> tuple[str, ...]:
    """Every container, flow entry, record and reservation that no committed decision explains, and what is missing."""
    return (
        *_containers(records, seen.containers),
        *_flows(records, seen),
        *_records(records),
        *_neighbours(records, seen.neighbours),
        *(
            f"{host}: NIC {name} is left over in the host's namespace"
            for host, names in seen.links.items()
            for name in names
        ),
    )


def _containers(records: Records, containers: Sequence[Container]) -> Iterable[str]:
    nodes, committed = records.nodes(), records.committed()
    for container in containers:
        if container.role == POOL:
            continue
        node = nodes.get(container.node)
        if node is None or node["host"] != container.host:
            yield f"container {container.name} on {container.host}: no record places it there"
        elif container.tx not in committed and (container.tx or container.role == WORKLOAD):
            yield f"container {container.name} on {container.host}: its transaction {container.tx} is not committed"
    for name, node in nodes.items():
        for role in (SANDBOX, WORKLOAD):
            found = [item for item in containers if (item.node, item.role, item.host) == (name, role, node["host"])]
            if len(found) != 1 or not found[0].running:
                yield f"node {name} is recorded on {node['host']}, and there are {len(found)} {role} containers running"


def _flows(records: Records, seen: Seen) -> Iterable[str]:
    wanted = {node["address"]: name for name, node in records.nodes().items() if node["phase"] in IN_SWITCHES}
    for switch in seen.switches:
        counts: dict[str, int] = {}
        for flow in seen.flows:
            if flow.switch == switch and flow.node_address is not None:
                counts[flow.node_address] = counts.get(flow.node_address, 0) + 1
        for address in sorted(counts.keys() - wanted.keys()):
            yield f"{switch}: {counts[address]} flow entries for {address}, which is no admitted node's address"
        for address in sorted(wanted.keys() - counts.keys()):
            yield f"{switch}: no flow entry for the admitted node {wanted[address]} ({address})"


def _records(records: Records) -> Iterable[str]:
    for record in records.open():
        yield f"transaction {record['id']} is {record['state']} and not finished"
        for reserved in record.get("objects", ()):
            yield f"{reserved} is still reserved by {record['id']}"
    admitted: dict[str, int] = {}
    for node in records.nodes().values():
        key = f"network/{node['platform']}/{node['network']}"
        admitted[key] = admitted.get(key, 0) + (node["phase"] == "admitted")
        if key not in records.documents:
            yield f"node {node['node']} is recorded and its network {key} is not"
    for key, document in records.documents.items():
        if key.startswith("network/") and document["count"] != admitted.get(key, 0):
            yield f"{key} is to have {document['count']} nodes and {admitted.get(key, 0)} are recorded as admitted"


def _neighbours(records: Records, found: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    nodes = records.nodes()
    for name, document in found.items():
        platform = nodes[name]["platform"] if name in nodes else None
        for network, dependency in document.get("dependencies", {}).items():
            told = {entry["node"] for entry in dependency["nodes"]}
            wanted = {
                other
                for other, node in nodes.items()
                if (node["platform"], node["network"], node["phase"]) == (platform, network, "admitted")
            }
            if told != wanted:
                yield f"{name} was told that {network} is {sorted(told)}, and admitted are {sorted(wanted)}"
