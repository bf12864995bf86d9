# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a participant implements; ``runner.ParticipantRunner`` gives it protocol, journal and connections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a participant is told of a transaction; ``deadline`` is the seconds that remained when prepare came.

    ``stage`` is set in ``restore`` alone: the stage that was decided and under way when the process ended.
    """

    id: str
    seq: int
    epoch: int
    operation: Json
    deadline: float
    stage: str | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """The result of prepare, of a commit stage or of abort.

    ``state`` documents are stored in the same journal write as the result (None deletes); ``detail`` goes to the
    coordinator as it is; ``degraded`` (of a stage) tells people what works less than promised.
    """

    detail: Json = field(default_factory=dict)
    degraded: str | None = None
    state: Mapping[str, Json | None] = field(default_factory=dict)


class Refused(Exception):
    """Raised by ``prepare``: the participant votes no. ``reason`` is for people."""

    def __init__(self, reason: str, detail: Json | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Participant(ABC):
    """Takes part in transactions.

    For one transaction at most one of prepare, commit and abort runs at a time; different transactions run in
    parallel.  Every effect must be idempotent by a deterministic identity: after a crash it is done again and must find
    what it did before.
    """

    @abstractmethod
    async def prepare(self, tx: Transaction) -> Effect:
        """Do all that can fail, out of sight; raise Refused to vote no (abort then follows).

        Any other exception also votes no.  It is cancelled when the transaction is aborted or its deadline passes.
        """

    @abstractmethod
    async def commit(self, tx: Transaction, stage: str) -> Effect:
        """Carry out one stage.  When it raises, it is repeated with a bounded back-off, for ever."""

    @abstractmethod
    async def abort(self, tx: Transaction) -> Effect:
        """Remove every trace, also of a prepare that never finished.  Repeated like commit when it raises."""

    @abstractmethod
    async def status(self, tx_id: str) -> Json:
        """Tell what is known of one transaction."""

    @abstractmethod
    async def observe(self) -> Json:
        """Return the full state, with ``revision``: the highest seq that was committed here."""

    @abstractmethod
    async def call(self, method: str, params: Json, progress: Callable[[Json], Awaitable[None]]) -> Json:
        """Answer any other call; raise RpcError."""

    @abstractmethod
    async def restore(self, state: Mapping[str, Json], in_doubt: Sequence[Transaction]) -> None:
        """Called once at the start, before the first connection.

        ``state`` are the committed documents, ``in_doubt`` the transactions that were voted yes and are not yet carried
        out: adopt what they made, do not make it again.  One with a ``stage`` is decided, and that stage may be visible
        to others already: do not take it back.  What was still being prepared is aborted afterwards.
        """
