# SPDX-License-Identifier: AGPL-3.0-or-later
"""The decision record of a transaction, and news of its course."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Json = Mapping[str, Any]
State = Literal["preparing", "committed", "aborted"]
Decision = Literal["committed", "aborted"]
ABORT_STAGE = "abort"
"""The name under which ``TxRecord.done`` lists who has answered an abort; no stage may have it."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_STAGE = re.compile(r"[a-z][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class TxRecord:
    """One transaction as the decision log holds it.

    ``participants`` maps each participant to its operation ``{"prepare": ..., "stages": {name: ...}}``; ``stages`` is
    their order.  ``changes`` (state documents, None deletes) and ``events`` ({topic, data}) belong to whoever keeps the
    log: they take effect with the decision ``committed``.  ``done`` maps each stage to who has carried it out.
    ``deadline`` is in seconds from the moment of ``create``.  ``revision`` is what compare-and-set compares.
    """

    id: str
    seq: int
    epoch: int
    revision: int
    state: State
    participants: Mapping[str, Json]
    stages: tuple[str, ...]
    changes: Mapping[str, Json | None] = field(default_factory=dict)
    events: tuple[Json, ...] = ()
    objects: tuple[str, ...] = ()
    done: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    degraded: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    finished: bool = False
    deadline: float = 60.0

    def check(self) -> None:
        """Raise ValueError unless the record can be carried out."""
        if not _ID.fullmatch(self.id):
            raise ValueError(f"transaction id {self.id!r}: use letters, digits, . _ and -, at most 128")
        if not self.participants:
            raise ValueError(f"transaction {self.id} has no participant")
        if self.deadline <= 0:
            raise ValueError(f"transaction {self.id}: the deadline is {self.deadline} s; it must be above 0")
        wrong = [stage for stage in self.stages if stage == ABORT_STAGE or not _STAGE.fullmatch(stage)]
        if wrong or len(set(self.stages)) != len(self.stages):
            raise ValueError(f"transaction {self.id}: stages {self.stages} must be different names other than 'abort'")
        for name, operation in self.participants.items():
            named = set(operation.get("stages", ()))
            if not named or not named <= set(self.stages) or "prepare" not in operation:
                raise ValueError(
                    f"transaction {self.id}: the operation of {name} must have prepare (or null) and at least one of "
                    f"the stages {self.stages}; it has stages {tuple(sorted(named))}"
                )

    def takers(self, stage: str) -> tuple[str, ...]:
        """Return the participants whose operation names ``stage``, in order of the record."""
        return tuple(name for name, operation in self.participants.items() if stage in operation["stages"])

    def missing(self) -> tuple[str, ...]:
        """Return the participants that still have to carry out the decision (all of them while it is open)."""
        if self.finished:
            return ()
        done = {stage: frozenset(names) for stage, names in self.done.items()}
        if self.state == "aborted":
            return tuple(name for name in self.participants if name not in done.get(ABORT_STAGE, ()))
        return tuple(
            name
            for name, operation in self.participants.items()
            if any(name not in done.get(stage, ()) for stage in operation["stages"])
        )

    def awaited(self) -> tuple[str, ...]:
        """Return whom the next step waits for: of ``missing``, those that are asked now, not in a later stage."""
        if self.finished or self.state != "committed":
            return self.missing()
        open_stages = (
            [name for name in self.takers(stage) if name not in self.done.get(stage, ())] for stage in self.stages
        )
        return tuple(next((names for names in open_stages if names), ()))

    def summary(self) -> dict[str, Any]:
        """Return what a person wants to know of it, as JSON."""
        value: dict[str, Any] = {
            "id": self.id, "seq": self.seq, "epoch": self.epoch, "state": self.state, "finished": self.finished,
            "participants": list(self.participants), "stages": list(self.stages), "missing": list(self.missing()),
        }  # fmt: skip
        return (
            value
            | ({"reason": self.reason} if self.reason else {})
            | ({"degraded": dict(self.degraded)} if self.degraded else {})
        )

    def to_json(self) -> dict[str, Any]:
        """Return the whole record as JSON."""
        return {name: getattr(self, name) for name in _RECORD_FIELDS}

    @classmethod
    def from_json(cls, value: Json) -> TxRecord:
        """Read what ``to_json`` gave."""
        tuples = {name: tuple(value[name]) for name in ("stages", "events", "objects") if name in value}
        done = {stage: tuple(names) for stage, names in value.get("done", {}).items()}
        return cls(**{**value, **tuples, "done": done})


@dataclass(frozen=True, slots=True)
class TxProgress:
    """News of a transaction.

    ``kind``: created, vote, decided, waiting (for ``participant``, because of ``reason``), done (``participant``
    carried out ``stage``), stage (every participant did), aborted (``participant`` did), finished.
    """

    tx: str
    kind: str
    state: State
    participant: str | None = None
    stage: str | None = None
    reason: str | None = None
    detail: Json | None = None

    def document(self) -> dict[str, Any]:
        """Return the fields that are set as JSON, the kind as ``event``."""
        value = {name: item for name in _PROGRESS_FIELDS if (item := getattr(self, name)) is not None}
        value["event"] = value.pop("kind")
        return value


_RECORD_FIELDS = tuple(item.name for item in fields(TxRecord))
_PROGRESS_FIELDS = tuple(item.name for item in fields(TxProgress))
