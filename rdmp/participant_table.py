# SPDX-License-Identifier: AGPL-3.0-or-later
"""The vocabulary of a participant's machine: phases and their table, what it stores, what it asks its shell for.

The theory of operation stands in ``participant_core``; the table in words stands in docs/rdmp.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from rdmp.messages import Message
from rdmp.participant import Effect, Transaction

Json = Mapping[str, Any]
EffectKind = Literal["prepare", "commit", "abort"]


class Phase(Enum):
    """Where a transaction stands for the participant; the journal stores the value."""

    UNKNOWN = "unknown"
    PREPARING = "preparing"
    PREPARED = "prepared"
    COMMITTING = "committing"
    STAGED = "staged"
    COMMITTED = "committed"
    ABORTING = "aborting"
    ABORTED = "aborted"


class Step(Enum):
    """What moves a transaction from phase to phase."""

    PREPARE = "prepare arrives"
    COMMIT = "commit of a stage arrives"
    ABORT = "abort arrives"
    PREPARE_OK = "prepare's effect succeeded"
    PREPARE_FAILED = "prepare's effect refused, failed, ran out of time or was interrupted"
    STAGE_OK = "the stage's effect succeeded; stages remain"
    LAST_STAGE_OK = "the last stage's effect succeeded"
    ABORT_OK = "abort's effect succeeded"


TRANSITIONS: Mapping[Phase, Mapping[Step, Phase]] = {
    Phase.UNKNOWN: {Step.PREPARE: Phase.PREPARING, Step.ABORT: Phase.ABORTED},
    Phase.PREPARING: {
        Step.PREPARE_OK: Phase.PREPARED,
        Step.PREPARE_FAILED: Phase.ABORTING,
        Step.ABORT: Phase.ABORTING,
    },
    Phase.PREPARED: {Step.COMMIT: Phase.COMMITTING, Step.ABORT: Phase.ABORTING},
    Phase.COMMITTING: {Step.STAGE_OK: Phase.STAGED, Step.LAST_STAGE_OK: Phase.COMMITTED},
    Phase.STAGED: {Step.COMMIT: Phase.COMMITTING},
    Phase.COMMITTED: {},
    Phase.ABORTING: {Step.ABORT_OK: Phase.ABORTED},
    Phase.ABORTED: {},
}
FINAL = frozenset({Phase.COMMITTED, Phase.ABORTED})
BOUND = frozenset({Phase.PREPARED, Phase.COMMITTING, Phase.STAGED})
"""Voted yes and not carried out: survives a restart, and is inquired about."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the journal holds of one transaction. ``done`` maps each finished stage to its ``done`` message's fields."""

    id: str
    seq: int
    epoch: int
    phase: Phase
    operation: Json = field(default_factory=dict)
    deadline: float = 0.0
    reason: str | None = None
    detail: Json | None = None
    stage: str | None = None
    done: Mapping[str, Json] = field(default_factory=dict)

    def transaction(self) -> Transaction:
        """Return what the participant's methods are given."""
        return Transaction(self.id, self.seq, self.epoch, self.operation, self.deadline)


@dataclass(frozen=True, slots=True)
class Meta:
    """What the journal holds beside transactions; see docs/rdmp.md."""

    epoch: int = 0
    incarnation: str = ""
    low_water: int = 0


@dataclass(frozen=True, slots=True)
class Write:
    """Write all of it in one journal transaction, in order with other writes; call ``written(token)`` when durable."""

    token: int
    entry: Entry | None = None
    state: Mapping[str, Json | None] = field(default_factory=dict)
    meta: Meta | None = None
    forget: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """Run an effect once every earlier effect of this transaction has ended; call ``ran(tx, version, result)``."""

    version: int
    kind: EffectKind
    transaction: Transaction
    stage: str | None = None


@dataclass(frozen=True, slots=True)
class CancelRun:
    """Cancel the running effect of a transaction; its result is not wanted."""

    tx: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``message`` to the orchestrator ``peer``; it may be lost."""

    peer: str
    message: Message


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Call ``timer(name, version)`` after ``seconds``; a timer of the same name is replaced."""

    name: str
    version: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Announce:
    """Publish an event."""

    topic: str
    data: Json


@dataclass(frozen=True, slots=True)
class Denied:
    """Result of a prepare: the participant refuses."""

    reason: str
    detail: Json | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Result of an effect that raised; commit and abort are tried again."""

    reason: str


Output = Write | Run | CancelRun | Send | SetTimer | Announce
Result = Effect | Denied | Failed
