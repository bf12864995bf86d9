# SPDX-License-Identifier: AGPL-3.0-or-later
"""Builds one transaction: collects what each participant has to do and gives the finished step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from odyssey.model.naming import CONTROLLER, NETCONF
from odyssey.planning.steps import TransactionStep

Document = Mapping[str, Any]

ADD = ("admit", "neighbours")
WITHDRAW = ("neighbours", "withdraw")
RETIRE = ("retire", "stop")
NARROW = ("neighbours", "retire")
"""Orders of stages: what is new is reachable before it is named; what goes is unnamed before it is unreachable."""

AVOID = ("prefer", "admit")
RETURN = ("admit", "prefer")
"""Orders around a switch: hosts leave it before others stop using it, and come back once others use it again."""


class _Agent:
    """What one agent has to do."""

    def __init__(self) -> None:
        self.start: list[Document] = []
        self.stages: dict[str, dict[str, Any]] = {}

    def operation(self) -> dict[str, Any]:
        return {"prepare": {"start": self.start} if self.start else None, "stages": self.stages}


class Draft:
    """A transaction that is being built. Every method adds; `finish` gives the step."""

    def __init__(self, title: str, order: tuple[str, ...]) -> None:
        self.title = title
        self.changes: dict[str, Document | None] = {}
        self._order = order
        self._agents: dict[str, _Agent] = {}
        self._dark: dict[str, Document] = {}
        self._controller: dict[str, dict[str, Document | None]] = {}
        self._devices: dict[str, Document | None] = {}
        self._events: list[Document] = []
        self._objects: set[str] = set()
        self._nodes: list[str] = []

    def change(self, key: str, document: Document | None) -> None:
        """Set a state document with the decision; None deletes it."""
        self.changes[key] = document

    def event(self, topic: str, **data: Any) -> None:
        """Publish an event with the decision."""
        self._events.append({"topic": topic, "data": data})

    def node(self, name: str) -> None:
        """Name a node that the transaction changes."""
        self._nodes.append(name)

    def hold(self, *objects: str) -> None:
        """Reserve objects besides the documents that are changed."""
        self._objects.update(objects)

    def start(self, host: str, spec: Document) -> None:
        """Let an agent start a node in prepare."""
        self._agent(host).start.append(spec)

    def admit(self, host: str, node: str, *, standby: bool = False) -> None:
        """Let an agent keep a node that it started."""
        stage = self._agent(host).stages.setdefault("admit", {"nodes": []})
        stage.setdefault("standby" if standby else "nodes", []).append(node)

    def file(self, host: str, node: str, document: Document) -> None:
        """Let an agent replace the neighbour file of a node."""
        self._agent(host).stages.setdefault("neighbours", {"files": {}})["files"][node] = document

    def prefer(self, host: str, avoid: Iterable[str]) -> None:
        """Let a host's nodes leave these NICs alone while another one has a carrier."""
        self._agent(host).stages["prefer"] = {"avoid": list(avoid)}

    def stop(self, host: str, node: str) -> None:
        """Let an agent remove a node."""
        self._agent(host).stages.setdefault("stop", {"nodes": []})["nodes"].append(node)

    def dark(self, key: str, document: Document) -> None:
        """Let the controller install a binding in prepare, seen by nobody."""
        self._dark[key] = document

    def intend(self, stage: str, key: str, document: Document | None) -> None:
        """Let the controller set one of its documents in a stage; None deletes it."""
        self._controller.setdefault(stage, {})[key] = document

    def configure(self, switch: str, document: Document | None) -> None:
        """Let NETCONF configure a switch; None leaves it as it is from now on."""
        self._devices[f"device/{switch}"] = document
        self.hold(f"device/{switch}")

    def finish(self, deadline: float) -> TransactionStep:
        """The step."""
        participants: dict[str, Document] = {host: self._agents[host].operation() for host in sorted(self._agents)}
        if self._controller:
            participants[CONTROLLER] = self._controller_operation()
        if self._devices:
            # A VLAN comes before anybody sends in it, and goes when nobody does.
            stage = "admit" if "admit" in self._order else "retire"
            participants[NETCONF] = {"prepare": None, "stages": {stage: {"changes": self._devices}}}
        used = {stage for operation in participants.values() for stage in operation["stages"]}
        return TransactionStep(
            title=self.title,
            participants=participants,
            stages=tuple(stage for stage in self._order if stage in used),
            changes=self.changes,
            events=tuple(self._events),
            objects=tuple(sorted(self._objects.union(self.changes))),
            deadline=deadline,
            nodes=tuple(self._nodes),
        )

    def _agent(self, host: str) -> _Agent:
        return self._agents.setdefault(host, _Agent())

    def _controller_operation(self) -> dict[str, Any]:
        # Prepare names all that the stages will set, so that it can be refused while refusing is possible.
        coming: dict[str, Document | None] = {}
        for stage in self._order:
            coming |= self._controller.get(stage, {})
        stages = {stage: {"changes": changes} for stage, changes in self._controller.items()}
        return {"prepare": {"changes": coming, "dark": self._dark}, "stages": stages}


def listed(names: Iterable[str], limit: int = 4) -> str:
    """Names for a title: the first ones, and how many more there are."""
    items = list(names)
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")
