# SPDX-License-Identifier: AGPL-3.0-or-later
"""Callers: each wants one transaction, under an id of its own, and asks until it has an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdmp.records import TxRecord

HOSTS = ("h1", "h2")
CONTROLLER = "controller"
PARTIES = (*HOSTS, CONTROLLER)
Json = Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Caller:
    """Wants the nodes ``wanted`` (node -> host) to be there if they are not, or gone if they are."""

    id: str
    wanted: Mapping[str, str]
    begins: float
    deadline: float
    answer: str | None = None
    dead: bool = False
    asked: int = 0

    def plan(self, nodes: Mapping[str, Json]) -> TxRecord:
        """Return the transaction that follows from what stands now."""
        standing = {node: nodes[f"node/{node}"]["host"] for node in self.wanted if f"node/{node}" in nodes}
        if standing:
            return self._record(_removal(standing), ("retire", "stop"), {f"node/{node}": None for node in standing})
        changes = {f"node/{node}": {"host": host, "tx": self.id} for node, host in self.wanted.items()}
        return self._record(_addition(self.wanted), ("admit", "neighbours"), changes)

    def _record(self, operations: Json, stages: tuple[str, ...], changes: Mapping[str, Json | None]) -> TxRecord:
        objects = tuple(f"node/{node}" for node in self.wanted)
        return TxRecord(
            self.id, 0, 0, 0, "preparing", operations, stages, changes, objects=objects, deadline=self.deadline
        )


def _addition(wanted: Mapping[str, str]) -> dict[str, Json]:
    """Nodes are started in the dark, admitted, and told to the hosts of their neighbours."""
    operations: dict[str, Json] = {}
    files = dict.fromkeys(wanted, 1)
    for host in HOSTS:
        mine = [node for node in wanted if wanted[node] == host]
        if mine:
            start = {"start": [{"node": node} for node in mine]}
            operations[host] = {"prepare": start, "stages": {"admit": {"nodes": mine}, "neighbours": {"files": files}}}
        else:
            operations[host] = {"prepare": None, "stages": {"neighbours": {"files": files}}}
    documents = {f"binding/{node}": {"node": node, "host": host} for node, host in wanted.items()}
    admitted = {key: {**document, "phase": "admitted"} for key, document in documents.items()}
    operations[CONTROLLER] = {
        "prepare": {"dark": documents, "changes": {}},
        "stages": {"admit": {"changes": admitted}},
    }
    return operations


def _removal(standing: Mapping[str, str]) -> dict[str, Json]:
    """Flows go first, then the containers."""
    operations: dict[str, Json] = {
        host: {"prepare": None, "stages": {"stop": {"nodes": [node for node in standing if standing[node] == host]}}}
        for host in sorted(set(standing.values()))
    }
    changes = {f"binding/{node}": None for node in standing}
    operations[CONTROLLER] = {"prepare": None, "stages": {"retire": {"changes": changes}}}
    return operations
