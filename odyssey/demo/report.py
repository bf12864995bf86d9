# SPDX-License-Identifier: AGPL-3.0-or-later
"""The result of a demonstration: the JSON report and the truths that decide `ok`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Requests:
    """HTTP requests through all three tiers while everything was up, scaling included."""

    sent: int = 0
    ok: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """Declared paths that were open or not, and undeclared frames and connections that got through."""

    allowed_ok: int = 0
    allowed_failed: int = 0
    denied_leaked: int = 0
    denied_tried: int = 0
    sound: bool = False


@dataclass(frozen=True, slots=True)
class Crash:
    """After SIGKILL of odysseyd in the middle of an addNode, and its restart.

    `half_done`: containers + flow entries + records + reservations that no committed decision explains.
    `recovered_seconds`: from the restart until every transaction was finished.
    `moments` counts the kills, `outcomes` says how each interrupted call ended.
    """

    half_done: int = 0
    recovered_seconds: float = 0.0
    outcomes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Headless:
    """Requests while no daemon ran; `unchanged`: the same containers and flow entries after the daemons came back."""

    sent: int = 0
    failed: int = 0
    pairs_ok: int = 0
    pairs_failed: int = 0
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Transactions:
    """All transactions of the demonstration by how they ended."""

    committed: int = 0
    aborted: int = 0
    in_doubt: int = 0


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long the parts took."""

    setup: float = 0.0
    images: float = 0.0
    apply: float = 0.0
    scale_up: float = 0.0
    scale_down: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Truth:
    """One statement that must hold, and the evidence."""

    name: str
    holds: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the demonstration found. A part that was not reached is None, and so not true.

    `findings` is whatever a step found that should not be; any of them makes the result not ok.
    """

    nodes_expected: int = 0
    nodes_serving: int = 0
    requests: Requests | None = None
    policy: Policy | None = None
    crash: Crash | None = None
    headless: Headless | None = None
    transactions: Transactions | None = None
    seconds: Seconds = field(default_factory=Seconds)
    failure: str | None = None
    findings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Did all of it hold?"""
        return self.failure is None and not self.findings and all(truth.holds for truth in self.truths())

    def truths(self) -> tuple[Truth, ...]:
        """The table at the end of the demonstration."""
        return (
            self._serving(),
            self._requests(),
            *self._policy(),
            *self._crash(),
            *self._headless(),
            self._transactions(),
        )

    def _serving(self) -> Truth:
        text = f"{self.nodes_serving} of {self.nodes_expected} nodes answer"
        holds = self.nodes_serving == self.nodes_expected > 0
        return Truth("The platform serves through all three tiers", holds, text)

    def _requests(self) -> Truth:
        name = "No request failed while app went from 2 to 6 nodes and back"
        if self.requests is None:
            return Truth(name, False, "not reached")
        found = self.requests
        return Truth(name, found.failed == 0 and found.ok == found.sent > 0, f"{found.failed} of {found.sent} failed")

    def _policy(self) -> tuple[Truth, ...]:
        names = ("Every declared path is open", "Every other path is closed")
        if self.policy is None:
            return tuple(Truth(name, False, "not reached") for name in names)
        found = self.policy
        tried = f"{found.denied_leaked} of {found.denied_tried} undeclared attempts got through"
        if not found.sound:
            tried += "; the probes did not prove that they can see an arrival"
        return (
            Truth(names[0], found.allowed_failed == 0 < found.allowed_ok, f"{found.allowed_ok} open"),
            Truth(names[1], found.sound and found.denied_leaked == 0 < found.denied_tried, tried),
        )

    def _crash(self) -> tuple[Truth, ...]:
        name = "SIGKILL of odysseyd in the middle of addNode leaves nothing half done"
        if self.crash is None:
            return (Truth(name, False, "not reached"),)
        found = self.crash
        evidence = f"{found.half_done} half done; recovered in {found.recovered_seconds:.1f} s"
        return (Truth(name, found.half_done == 0 and bool(found.outcomes), "; ".join((evidence, *found.outcomes))),)

    def _headless(self) -> tuple[Truth, ...]:
        names = (
            "With every daemon stopped, caches empty and a cable pulled, traffic flows",
            "Pairs that never spoke reach each other with no daemon",
            "The daemons came back and changed nothing",
        )
        if self.headless is None:
            return tuple(Truth(name, False, "not reached") for name in names)
        found = self.headless
        return (
            Truth(names[0], found.failed == 0 < found.sent, f"{found.failed} of {found.sent} requests failed"),
            Truth(
                names[1],
                found.pairs_failed == 0 < found.pairs_ok,
                f"{found.pairs_ok} pairs, {found.pairs_failed} failed",
            ),
            Truth(names[2], found.unchanged, "same containers, same flow entries" if found.unchanged else "changed"),
        )

    def _transactions(self) -> Truth:
        name = "Every transaction is decided and finished"
        if self.transactions is None:
            return Truth(name, False, "not reached")
        found = self.transactions
        text = f"{found.committed} committed, {found.aborted} aborted, {found.in_doubt} in doubt"
        return Truth(name, found.in_doubt == 0 < found.committed, text)

    def to_json(self) -> Mapping[str, Any]:
        """The report file: the keys that the issue names, and some evidence beside them."""
        requests, policy = self.requests or Requests(), self.policy or Policy()
        crash, headless = self.crash or Crash(), self.headless or Headless()
        transactions, seconds = self.transactions or Transactions(), self.seconds
        return {
            "ok": self.ok,
            "nodes_serving": self.nodes_serving,
            "requests": {"sent": requests.sent, "ok": requests.ok, "failed": requests.failed},
            "policy": {
                "allowed_ok": policy.allowed_ok,
                "allowed_failed": policy.allowed_failed,
                "denied_leaked": policy.denied_leaked,
                "denied_tried": policy.denied_tried,
            },
            "crash": {
                "half_done": crash.half_done,
                "recovered_seconds": round(crash.recovered_seconds, 3),
                "outcomes": list(crash.outcomes),
            },
            "headless": {
                "sent": headless.sent,
                "failed": headless.failed,
                "pairs_ok": headless.pairs_ok,
                "pairs_failed": headless.pairs_failed,
                "unchanged": headless.unchanged,
            },
            "transactions": {
                "committed": transactions.committed,
                "aborted": transactions.aborted,
                "in_doubt": transactions.in_doubt,
            },
            "seconds": {
                "setup": round(seconds.setup, 3),
                "images": round(seconds.images, 3),
                "apply": round(seconds.apply, 3),
                "scale_up": round(seconds.scale_up, 3),
                "scale_down": round(seconds.scale_down, 3),
                "total": round(seconds.total, 3),
            },
            "truths": [
                {"name": truth.name, "holds": truth.holds, "evidence": truth.evidence} for truth in self.truths()
            ],
            "findings": list(self.findings),
            "failure": self.failure,
        }
