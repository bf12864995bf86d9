# SPDX-License-Identifier: AGPL-3.0-or-later
"""What must hold at each step, and what must hold when everything is at rest.

``excused`` transactions are those to which no promise holds any more: a participant lost its journal while it had a
part in them, or the store was set back behind them (docs/reliability.md, "What is promised after a loss").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rdmp.messages import Abort, Commit, Message, Prepare
from rdmp.participant_table import FINAL, Phase, Run
from rdmp.records import TxRecord
from tests.simulation.callers import CONTROLLER, HOSTS
from tests.simulation.kernel import require

if TYPE_CHECKING:
    from tests.simulation.orchestrator import Orchestrator
    from tests.simulation.party import Party
    from tests.simulation.world import World

_STUCK = (Phase.COMMITTING, Phase.STAGED)
"""A store that was set back behind its decision may not know that such a transaction was committed."""


class Checks:
    """The observer who sees every disk, and who is asked at each step of weight."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.decisions: dict[str, str] = {}  # transaction -> the decision that was once durable
        self.lost: dict[str, set[str]] = {}  # participant -> transactions that its lost journal may have held
        self._kept: set[str] = set()  # what the switch admitted when the controller's journal was lost

    def excused(self, tx: str) -> bool:
        """Tell whether no promise holds for a transaction any more."""
        return tx in self.world.store.set_back or any(tx in held for held in self.lost.values())

    def journal_lost(self, party: Party) -> None:
        """A participant has just lost its journal."""
        if party.name == CONTROLLER:
            self._kept = {node for node, phase in self.world.switch.holds().items() if phase == "admitted"}

    # At each step

    def decided(self, record: TxRecord) -> None:
        """A decision has just become durable."""
        tx = record.id
        if tx not in self.world.store.set_back:
            before = self.decisions.setdefault(tx, record.state)
            require(before == record.state, f"{tx} was decided {before} and is now decided {record.state}")
        if record.state == "committed" and not self.excused(tx):
            for name in record.participants:
                party = self.world.parties[name]
                require(party.disk.bound(tx), f"{tx} is committed, but {name}'s journal says {party.phase(tx).value}")

    def may_send(self, leader: Orchestrator, message: Message) -> None:
        """An orchestrator sends only what its log holds."""
        if not isinstance(message, Prepare | Commit | Abort) or message.tx in self.world.store.set_back:
            return
        record = self.world.store.records.get(message.tx)
        require(record is not None, f"{leader.name} sends {message.TYPE} of {message.tx}, which the log does not hold")
        assert record is not None
        right = {Commit: "committed", Abort: "aborted"}.get(type(message))
        require(
            right is None or record.state == right,
            f"{leader.name} sends {message.TYPE} of {message.tx}, but the log says {record.state}",
        )

    def may_answer(self, leader: Orchestrator, record: TxRecord) -> None:
        """Nobody is told of a decision that is not durable."""
        if record.id not in self.world.store.set_back:
            stored = self.world.store.records[record.id].state
            right = record.state == stored != "preparing"
            require(right, f"{leader.name} answers {record.state} of {record.id}, but the log has {stored}")

    def may_run(self, party: Party, run: Run) -> None:
        """An effect begins only after its intent is durable, and a stage only after all before it."""
        tx = run.transaction.id
        entry = party.disk.entries.get(tx)
        phase = entry.phase if entry else Phase.UNKNOWN
        wanted = {"prepare": Phase.PREPARING, "commit": Phase.COMMITTING, "abort": Phase.ABORTING}[run.kind]
        require(phase is wanted, f"{party.name} runs {run.kind} of {tx} while its journal says {phase.value}")
        assert entry is not None
        if tx in self.world.store.set_back:
            return
        record = self.world.store.records[tx]
        if run.kind == "prepare" and tx not in self.lost.get(party.name, ()):
            require(not record.finished, f"{party.name} prepares {tx}, which is finished, once more")
        if run.kind == "abort":
            require(record.state != "committed", f"{party.name} aborts {tx}, which is committed")
        if run.kind == "commit":
            require(record.state == "committed", f"{party.name} commits {tx}, which is {record.state}")
            require(entry.stage == run.stage, f"{party.name} runs {run.stage} of {tx}, journalled is {entry.stage}")
            require(run.stage not in entry.done, f"{party.name} runs {run.stage} of {tx} a second time")
            self._stages_before(record, run.stage or "")

    def _stages_before(self, record: TxRecord, stage: str) -> None:
        for earlier in record.stages[: record.stages.index(stage)]:
            for name in record.takers(earlier):
                if record.id in self.lost.get(name, ()):
                    continue
                entry = self.world.parties[name].disk.entries.get(record.id)
                # What is not in the journal any more was finished before it was forgotten.
                done = entry is None or earlier in entry.done
                require(done, f"stage {stage} of {record.id} begins, but {name} has not done {earlier}")

    def may_admit(self, node: str, phase: str, seq: int) -> None:
        """The switch gets a new entry."""
        store = self.world.store
        records = [record for record in store.records.values() if record.seq == seq]
        if store.set_back or not records:
            return
        (record,) = records
        if self.excused(record.id):
            return
        if phase == "admitted":
            require(record.state == "committed", f"{node} is admitted for {record.id}, which is {record.state}")
            host = record.changes[f"node/{node}"]
            docker = self.world.dockers[str(host and host["host"])]
            there = docker.containers.get(node)
            require(there is not None and there.tx == record.id, f"{node} is admitted, but no container is there")
        else:
            require(not (record.state == "aborted" and record.finished), f"{node} of the aborted {record.id} turns up")

    def reachable(self, node: str) -> bool:
        """Tell whether the switch still admits a node although its controller knows that it should not."""
        return CONTROLLER not in self.lost and self.world.switch.phase(node) == "admitted"

    def may_remove(self, party: str, node: str, tx: str) -> bool:
        """A container may be removed by an abort only if its transaction did not and will not commit."""
        if tx in self.world.store.set_back:
            return True
        return self.decisions.get(tx) != "committed"

    # At rest

    def at_rest(self) -> bool:
        """Tell whether nothing is open anywhere."""
        world = self.world
        if any(caller.answer is None and not caller.dead for caller in world.plan.callers):
            return False
        if any(not record.finished for record in world.store.records.values()):
            return False
        return all(
            entry.phase in FINAL or (entry.phase in _STUCK and entry.id in world.store.set_back)
            for party in world.parties.values()
            for entry in party.disk.entries.values()
        )

    def open_things(self) -> str:
        """Tell what is still open, for the report of a run that does not come to rest."""
        world = self.world
        open_now = [f"caller {one.id} unanswered" for one in world.plan.callers if one.answer is None and not one.dead]
        open_now += [f"record {one.id} {one.state}" for one in world.store.records.values() if not one.finished]
        open_now += [
            f"{entry.id} {entry.phase.value} at {party.name}"
            for party in world.parties.values()
            for entry in party.disk.entries.values()
            if entry.phase not in FINAL
        ]
        return "; ".join(open_now)

    def end(self) -> None:
        """Everything is at rest: the world must be what the decisions add up to, and nothing else."""
        for caller in self.world.plan.callers:
            if caller.answer in ("committed", "aborted") and caller.id not in self.world.store.set_back:
                stored = self.world.store.records.get(caller.id)
                found = stored.state if stored else "gone"
                require(found == caller.answer, f"{caller.id} was answered {caller.answer}, but is {found}")
        touched = self._touched()
        expected = {key.removeprefix("node/"): value for key, value in self.world.store.nodes.items()}
        for name in HOSTS:
            wanted = {node: f"{value['tx']} kept" for node, value in expected.items() if value["host"] == name}
            state = self.world.parties[name].disk.state
            documents = {key.removeprefix("node/"): "" for key in state if key.startswith("node/")}
            self._same(f"containers of {name}", wanted, self.world.dockers[name].holds(), touched)
            self._same(f"journal of {name}", dict.fromkeys(wanted, ""), documents, touched)
        gone = self._kept - set(self.world.switch.holds())
        require(not gone, f"a controller with an empty journal removed {sorted(gone)} from the switch")
        self._same("flows", dict.fromkeys(expected, "admitted"), self.world.switch.holds(), touched)
        self._once()

    def _touched(self) -> set[str]:
        """Return the nodes of which excused transactions have made something uncertain."""
        if self.world.store.set_back or CONTROLLER in self.lost:
            return {node for caller in self.world.plan.callers for node in caller.wanted if self._uncertain(caller.id)}
        return {node for caller in self.world.plan.callers if self.excused(caller.id) for node in caller.wanted}

    def _uncertain(self, tx: str) -> bool:
        return self.excused(tx) or CONTROLLER in self.lost

    def _same(self, what: str, wanted: Mapping[str, str], found: Mapping[str, str], touched: set[str]) -> None:
        for node in sorted({*wanted, *found} - touched):
            require(
                wanted.get(node) == found.get(node),
                f"{what}: {node} should be {wanted.get(node, 'absent')!r}, but is {found.get(node, 'absent')!r}",
            )

    def _once(self) -> None:
        for name, docker in self.world.dockers.items():
            twice = [key for key, count in docker.made.items() if count > 1 and not self.excused(key[0])]
            require(not twice, f"{name} made {twice} more than once")
        if not self.world.store.set_back and CONTROLLER not in self.lost:
            twice = [key for key, count in self.world.switch.made.items() if count > 1]
            require(not twice, f"the switch was given {twice} more than once")
