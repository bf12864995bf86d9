# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plan and its parts, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from schemas import Fault


class PlanRefused(ValueError):
    """There is no plan; `faults` holds every reason that was found."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("\n".join(fault.message for fault in faults))
        self.faults: tuple[Fault, ...] = faults


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How to plan.

    `batch` is the most nodes that one transaction starts, withdraws or retires. `deadline` (seconds) bounds the
    prepare of a transaction that starts nothing; one that starts nodes gets `start` seconds and the longest health
    deadline of its nodes. With `absent_allowed` a plan may name participants that are not connected.
    """

    batch: int = 8
    deadline: float = 30.0
    start: float = 60.0
    absent_allowed: bool = False


@dataclass(frozen=True, slots=True)
class TransactionStep:
    """One transaction: an operation for each participant, and what its decision sets.

    `nodes` are the nodes that it changes, `objects` what nothing else may touch until it is finished, and `deadline`
    the seconds that prepare may take.
    """

    title: str
    participants: Mapping[str, Mapping[str, Any]]
    stages: tuple[str, ...]
    changes: Mapping[str, Mapping[str, Any] | None]
    events: tuple[Mapping[str, Any], ...]
    objects: tuple[str, ...]
    deadline: float
    nodes: tuple[str, ...]

    def with_tx(self, tx: str) -> TransactionStep:
        """The step with the transaction's id in the node documents that it sets."""
        changes = {
            key: {**document, "tx": tx} if key.startswith("node/") and document is not None else document
            for key, document in self.changes.items()
        }
        return replace(self, changes=changes)

    def summary(self) -> dict[str, Any]:
        """The step for people: who takes part and in which stages, without the operations."""
        return {
            "kind": "transaction",
            "title": self.title,
            "participants": sorted(self.participants),
            "stages": list(self.stages),
            "nodes": list(self.nodes),
            "deadline": self.deadline,
        }

    def to_json(self) -> dict[str, Any]:
        """The whole step."""
        return {
            **self.summary(),
            "participants": dict(self.participants),
            "changes": dict(self.changes),
            "events": list(self.events),
            "objects": list(self.objects),
        }


@dataclass(frozen=True, slots=True)
class DrainStep:
    """Wait until withdrawn nodes have no inbound connection, at most `timeout` seconds; `nodes` are (node, host)."""

    nodes: tuple[tuple[str, str], ...]
    timeout: float

    @property
    def title(self) -> str:
        """What the step does."""
        return f"drain {', '.join(node for node, _ in self.nodes)}"

    def summary(self) -> dict[str, Any]:
        """The step as JSON."""
        return {
            "kind": "drain",
            "title": self.title,
            "nodes": [node for node, _ in self.nodes],
            "hosts": sorted({host for _, host in self.nodes}),
            "timeout": self.timeout,
        }

    def to_json(self) -> dict[str, Any]:
        """The whole step, which is its summary."""
        return self.summary()


@dataclass(frozen=True, slots=True)
class QuietStep:
    """Wait until ports of a switch carry at most `packets` packets a second each, at most `timeout` seconds.

    If they still carry more then, the plan ends there where it is `required`; else it goes on.
    """

    switch: str
    ports: tuple[int, ...]
    packets: float
    timeout: float
    required: bool

    @property
    def title(self) -> str:
        """What the step does."""
        return f"wait until nothing uses {self.switch}"

    def summary(self) -> dict[str, Any]:
        """The step as JSON."""
        return {
            "kind": "quiet",
            "title": self.title,
            "switch": self.switch,
            "ports": list(self.ports),
            "packets": self.packets,
            "timeout": self.timeout,
            "required": self.required,
        }

    def to_json(self) -> dict[str, Any]:
        """The whole step, which is its summary."""
        return self.summary()


Step = TransactionStep | DrainStep | QuietStep
"""What a plan is made of."""


@dataclass(frozen=True, slots=True)
class Change:
    """One line of what a plan changes: `op` is ``+``, ``~`` or ``-``."""

    op: str
    kind: str
    name: str
    detail: str

    def to_json(self) -> dict[str, str]:
        """The change as JSON."""
        return {"op": self.op, "kind": self.kind, "name": self.name, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps from the snapshot with this `index` to a goal; no step means that the goal is reached.

    `locks` are the objects that the steps read or write and that no other plan may change meanwhile.
    """

    index: int
    steps: tuple[Step, ...]
    changes: tuple[Change, ...]
    locks: frozenset[str]

    def document_changes(self, participant: str) -> dict[str, Mapping[str, Any] | None]:
        """The documents of the controller or NETCONF as the whole plan changes them, for `compile`; None deletes."""
        merged: dict[str, Mapping[str, Any] | None] = {}
        for step in self.steps:
            if isinstance(step, TransactionStep) and participant in step.participants:
                stages = step.participants[participant]["stages"]
                for stage in step.stages:
                    merged |= stages.get(stage, {}).get("changes", {})
        return merged

    def placements(self) -> dict[str, Mapping[str, Any]]:
        """Documents of the nodes that the plan starts or keeps, and of the platforms that tell what each needs.

        For the `pending` of snapshots made while it runs.
        """
        placed: dict[str, Mapping[str, Any]] = {}
        for step in self.steps:
            if isinstance(step, TransactionStep):
                coming = {key: value for key, value in step.changes.items() if key.startswith(("node/", "platform/"))}
                placed |= {key: value for key, value in coming.items() if value is not None}
        return placed

    def to_json(self, *, full: bool = False) -> dict[str, Any]:
        """The plan as JSON: for people, or with `full` every operation too (which can be megabytes)."""
        return {
            "index": self.index,
            "steps": [step.to_json() if full else step.summary() for step in self.steps],
            "changes": [change.to_json() for change in self.changes],
            "locks": sorted(self.locks),
        }
