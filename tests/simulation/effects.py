# SPDX-License-Identifier: AGPL-3.0-or-later
"""What participants do to the world: agents over a fake Docker, the controller over a fake switch.

Docker and the switch outlive the processes that use them.  An effect is a generator that yields *calls* to its world;
the process carries each out after a while and sends back the result, and may die before, in the midst of or after it.
The order in each effect is that of ``agents.participant`` and ``controller.participant``; the controller's ledger is
the production one.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from controller.fabric import Document
from controller.ledger import Ledger, OpenTransaction
from rdmp.participant import Effect, Transaction
from rdmp.participant_table import Denied, Failed, Result, Run
from tests.simulation.kernel import require

Json = Mapping[str, Any]
Call = Callable[[], Any]
Script = Generator[Call, Any, Result]
INVENTORY = "inventory"  # the controller's document without which it touches no switch


class Behaviour(ABC):
    """One participant: what it remembers while it lives, and its effects."""

    def __init__(self, world: Watched) -> None:
        self.world = world

    @abstractmethod
    def restore(self, state: Mapping[str, Json], in_doubt: Iterable[Transaction]) -> None:
        """Begin a life."""

    @abstractmethod
    def effect(self, run: Run) -> Script:
        """Return what ``run`` does."""

    @abstractmethod
    def tidy(self) -> Call | None:
        """Return one call of the restoring loop, None if there is nothing to do."""


class Watched(ABC):
    """A part of the world that outlives the processes, and which checks what is done to it."""

    late_calls = False  # whether a call of a process that died may be carried out after its next start

    def __init__(self) -> None:
        self.made: Counter[tuple[str, str]] = Counter()  # (tx or generation, thing)
        self.refusing: set[str] = set()  # transactions whose prepare it refuses
        self.failing = 0  # how many calls of commits and aborts fail

    def fails(self) -> bool:
        """Tell whether a call fails now."""
        if self.failing:
            self.failing -= 1
            return True
        return False

    @abstractmethod
    def holds(self) -> Mapping[str, str]:
        """Return each node that stands here with a word on how it stands."""


# Hosts


@dataclass(frozen=True, slots=True)
class Container:
    """A container with the labels it was made with."""

    node: str
    tx: str
    comes_back: bool = False


class Docker(Watched):
    """The engine of one host."""

    late_calls = True

    def __init__(self, reachable: Callable[[str], bool], may_remove: Callable[[str, str], bool]) -> None:
        super().__init__()
        self.containers: dict[str, Container] = {}
        self.neighbours: dict[str, int] = {}
        self._reachable = reachable
        self._may_remove = may_remove

    def create(self, node: str, tx: str) -> str:
        """Create a container, or find the one that this transaction made; says what came of it."""
        if tx in self.refusing:
            return "there is no such image"
        found = self.containers.get(node)
        if found is not None:
            return "" if found.tx == tx else f"the name belongs to {found.tx}"
        self.made[tx, node] += 1
        self.containers[node] = Container(node, tx)
        return ""

    def keep(self, node: str, tx: str) -> str:
        """Make a container come back by itself; says what is wrong with it."""
        found = self.containers.get(node)
        if found is None:
            return "it had gone"
        require(found.tx == tx, f"{node} of {tx} is to be kept, but the container is of {found.tx}")
        self.containers[node] = replace(found, comes_back=True)
        return ""

    def discard(self, node: str, tx: str) -> None:
        """Remove what an aborted transaction left, and nothing of any other."""
        found = self.containers.get(node)
        if found is not None and found.tx == tx:
            require(not found.comes_back, f"{node} of {tx} was admitted and is discarded")
            self.remove(node, tx)

    def stop(self, node: str) -> None:
        """Remove a node."""
        found = self.containers.get(node)
        if found is not None:
            require(not self._reachable(node), f"{node} is stopped while the switch admits it")
            del self.containers[node]

    def holds(self) -> Mapping[str, str]:
        return {node: f"{one.tx}{' kept' if one.comes_back else ''}" for node, one in self.containers.items()}

    def remove(self, node: str, tx: str) -> None:
        """Remove a container for an aborted transaction."""
        require(self._may_remove(node, tx), f"{node} of {tx} is removed, but nobody decided to abort {tx}")
        del self.containers[node]


class Agent(Behaviour):
    """The effects of ``agents.participant``."""

    def __init__(self, docker: Docker) -> None:
        super().__init__(docker)
        self.docker = docker
        self._committed: dict[str, str] = {}  # node -> tx
        self._aborted: dict[str, tuple[str, ...]] = {}

    def restore(self, state: Mapping[str, Json], in_doubt: Iterable[Transaction]) -> None:
        self._committed = {
            key.removeprefix("node/"): value["tx"] for key, value in state.items() if key.startswith("node/")
        }
        self._aborted = {
            key.removeprefix("aborted/"): tuple(value["nodes"])
            for key, value in state.items()
            if key.startswith("aborted/")
        }

    def effect(self, run: Run) -> Script:
        operation = run.transaction.operation
        match run.kind:
            case "prepare":
                return self._prepare(run.transaction.id, operation["prepare"] or {})
            case "commit":
                return self._commit(run.transaction.id, run.stage or "", operation)
            case _:
                return self._abort(run.transaction.id, operation)

    def _prepare(self, tx: str, wanted: Json) -> Script:
        for spec in wanted.get("start", ()):
            node = spec["node"]
            if self._committed.get(node, tx) != tx:
                return Denied(f"{node} runs here already, from {self._committed[node]}")
            for _ in range(2):  # a name may be about to be let go of
                refused = yield functools.partial(self.docker.create, node, tx)
                if not refused:
                    break
            else:
                return Denied(refused)
            yield lambda: None  # the health check
        return Effect(detail={"nodes": len(wanted.get("start", ()))})

    def _commit(self, tx: str, stage: str, operation: Json) -> Script:
        if self.docker.fails():
            return Failed("the engine does not answer")
        body = operation["stages"][stage]
        state: dict[str, Json | None] = {}
        degraded = None
        match stage:
            case "admit":
                for node in body["nodes"]:
                    keep = functools.partial(self.docker.keep, node, tx)
                    if wrong := (yield keep):
                        degraded = wrong
                        yield functools.partial(self.docker.create, node, tx)
                        yield keep
                    self._committed[node] = tx
                    state[f"node/{node}"] = {"tx": tx}
            case "neighbours":
                for node, revision in body["files"].items():
                    yield functools.partial(self._write, node, revision)
            case _:
                for node in body["nodes"]:
                    yield functools.partial(self.docker.stop, node)
                    self._committed.pop(node, None)
                    state[f"node/{node}"] = None
        return Effect(state=state, degraded=degraded)

    def _write(self, node: str, revision: int) -> None:
        self.docker.neighbours[node] = max(revision, self.docker.neighbours.get(node, 0))

    def _abort(self, tx: str, operation: Json) -> Script:
        if self.docker.fails():
            return Failed("the engine does not answer")
        nodes = tuple(spec["node"] for spec in (operation.get("prepare") or {}).get("start", ()))
        for node in nodes:
            yield functools.partial(self._discard, node, tx)
        if not nodes:
            return Effect()
        self._aborted[tx] = nodes
        return Effect(state={f"aborted/{tx}": {"nodes": nodes}})

    def _discard(self, node: str, tx: str) -> None:
        if node not in self._committed:
            self.docker.discard(node, tx)

    def tidy(self) -> Call | None:
        """Look for late traces of aborted transactions."""
        for tx, nodes in self._aborted.items():
            for node in nodes:
                found = self.docker.containers.get(node)
                if found is not None and found.tx == tx:
                    return functools.partial(self._discard, node, tx)
        return None


# The fabric


class Switch(Watched):
    """Flow entries by their owner; a bundle replaces all at once."""

    def __init__(self, check: Callable[[str, str, int], None]) -> None:
        super().__init__()
        self.flows: dict[str, tuple[str, int]] = {}  # node -> phase, generation (seq)
        self.life = 0  # of the controller
        self._check = check

    def bundle(self, wanted: Mapping[str, Document]) -> None:
        """Replace all entries."""
        new = {
            key.removeprefix("binding/"): (str(one.value["phase"]), one.seq)
            for key, one in wanted.items()
            if key != INVENTORY
        }
        for node, (phase, seq) in new.items():
            before = self.flows.get(node)
            if before != (phase, seq):
                taken_back = before == ("admitted", seq) and phase == "dark"
                require(not taken_back, f"{node} was admitted by seq {seq} and is dark again")
                self.made[f"{seq} in life {self.life}", f"{node} {phase}"] += 1
                self._check(node, phase, seq)
        self.flows = new

    def phase(self, node: str) -> str | None:
        """Return how the switch treats a node."""
        return self.flows[node][0] if node in self.flows else None

    def holds(self) -> Mapping[str, str]:
        return {node: phase for node, (phase, _) in self.flows.items()}


class Controller(Behaviour):
    """The effects of ``controller.participant`` with its ledger."""

    def __init__(self, switch: Switch) -> None:
        super().__init__(switch)
        self.switch = switch
        self.ledger = Ledger()
        self._brought = False

    def restore(self, state: Mapping[str, Json], in_doubt: Iterable[Transaction]) -> None:
        in_doubt = tuple(in_doubt)
        opened = [OpenTransaction.of(tx.id, tx.seq, tx.operation) for tx in in_doubt]
        self.ledger = Ledger.restored(state, opened)
        for tx, one in zip(in_doubt, opened, strict=True):
            if tx.stage is not None:
                self.ledger = self.ledger.with_stage(one, tx.stage)
        self._brought = False
        self.switch.life += 1

    def effect(self, run: Run) -> Script:
        match run.kind:
            case "prepare":
                return self._prepare(run.transaction)
            case "commit":
                return self._commit(run.transaction, run.stage or "")
            case _:
                return self._abort(run.transaction)

    def tidy(self) -> Call | None:
        """Bring the switch to the ledger after a start, as when it connects, if the inventory names it."""
        return None if self._brought or INVENTORY not in self.ledger.committed else self._bring

    def _prepare(self, tx: Transaction) -> Script:
        one = OpenTransaction.of(tx.id, tx.seq, tx.operation)
        if INVENTORY not in self.ledger.committed:
            return Denied("there is no inventory; set it first")
        if tx.id in self.switch.refusing:
            return Denied("the tables are full")
        taken = {key for other in self.ledger.open.values() if other.id != tx.id for key in other.dark}
        for key in one.dark:
            if key in self.ledger.committed:
                return Denied(f"{key} is committed already")
            if key in taken:
                return Denied(f"{key} is held by another open transaction")
        self.ledger = replace(self.ledger, open={**self.ledger.open, tx.id: one})
        if one.dark:
            yield self._bring
        return Effect(detail={"entries": len(self.ledger.effective)})

    def _commit(self, tx: Transaction, stage: str) -> Script:
        one = self.ledger.open.get(tx.id) or OpenTransaction.of(tx.id, tx.seq, tx.operation)
        self.ledger = self.ledger.with_stage(one, stage)
        if self.switch.fails():
            return Failed("the switch does not answer")
        yield self._bring
        state = self.ledger.changed_state(one, stage)
        if self.ledger.finished(tx.id):
            self.ledger = self.ledger.without(tx.id)
        return Effect(state=state)

    def _abort(self, tx: Transaction) -> Script:
        self.ledger = self.ledger.without(tx.id)
        if not OpenTransaction.of(tx.id, tx.seq, tx.operation).dark:
            return Effect()
        if self.switch.fails():
            return Failed("the switch does not answer")
        yield self._bring
        return Effect()

    def _bring(self) -> None:
        if INVENTORY not in self.ledger.committed:
            return  # nothing is known of the switch: it may not be ours to change
        self._brought = True
        self.switch.bundle(self.ledger.effective)
