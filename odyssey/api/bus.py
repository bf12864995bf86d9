# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bus itself: who is connected, which transactions are in doubt, the course of one, and the orders to end one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from odyssey.api.parameters import text
from odyssey.orchestrator.deadletters import DeadLetters
from odyssey.state.decisions import StoreDecisionLog
from odyssey.state.trace import trace
from odyssey.state.view import Entry, StateView
from rdmp.hub import Hub
from rdmp.rpc import RpcError
from rdmp.tls import Identity

_log = logging.getLogger(__name__)
Params = Mapping[str, Any]
Answer = dict[str, Any]
Method = Callable[[Identity, Params], Awaitable[Answer]]
_SETTLE_SECONDS = 5.0
_POLL_SECONDS = 0.02
_MOST = 3600
"""The longest timeout in seconds, and the most attempts, of a call to a group."""
_REASON = 1000
"""Characters of a reason that are kept."""
_DECISIONS = {"commit": "committed", "abort": "aborted"}


class Bus:
    """RPC methods about connections and transactions; those that change something know who asks."""

    def __init__(
        self, epoch: int, view: StateView, decisions: StoreDecisionLog, hub: Hub, letters: DeadLetters
    ) -> None:
        self._letters = letters
        self._epoch = epoch
        self._view = view
        self._decisions = decisions
        self._hub = hub

    def methods(self) -> dict[str, Method]:
        """Every method by its name."""
        return {
            "bus.status": self.status, "bus.peers": self.peers, "bus.tx": self.transactions, "bus.trace": self.trace,
            "bus.call": self.call, "bus.deadletter.list": self.dead_letters, "bus.deadletter.retry": self.retry,
            "bus.deadletter.drop": self.drop, "tx.abort": self.abort, "tx.resolve": self.resolve,
        }  # fmt: skip

    async def status(self, _peer: Identity, _params: Params) -> Answer:
        """Numbers: connections, queues, events, transactions."""
        peers = self._hub.peers()
        return {
            "epoch": self._epoch, "peers": len(peers), "queued": sum(peer.queue for peer in peers),
            **self._hub.statistics(), "transactions": self._view.counts(),
            "deadletters": len(await self._letters.list()),
        }  # fmt: skip

    async def peers(self, _peer: Identity, _params: Params) -> Answer:
        """Everybody who is connected, with what waits to be sent to them."""
        return {
            "peers": [
                {
                    "name": peer.name, "role": peer.role, "since": peer.since, "address": peer.address,
                    "queue": peer.queue, "boot": peer.boot, "groups": list(peer.groups),
                }
                for peer in self._hub.peers()
            ]
        }  # fmt: skip

    async def transactions(self, _peer: Identity, _params: Params) -> Answer:
        """Transactions that are not finished, oldest first, with whom they wait for."""
        entries = [self._view.entries[record.id] for record in self._view.unfinished()]
        entries.sort(key=lambda entry: entry.record.seq)
        present = {peer.name for peer in self._hub.peers()}

        def row(entry: Entry) -> Answer:
            awaited = self._hub.awaited(entry.record.id)
            absent = [name for name in awaited if name not in present]
            return {**entry.summary(), "awaited": list(awaited), "absent": absent}

        return {"transactions": [row(entry) for entry in entries]}

    async def trace(self, _peer: Identity, params: Params) -> Answer:
        """The steps of one transaction with their times."""
        entry = self._entry(params)
        return {**entry.summary(), "hops": list(trace(entry))}

    async def abort(self, peer: Identity, params: Params) -> Answer:
        """Abort a transaction that is not decided yet."""
        tx = self._entry(params).record.id
        reason = f"aborted by {peer.role}/{peer.name}" + (f": {_reason(params)}" if params.get("reason") else "")
        # A transaction that is only being created hears no order yet, so the order is repeated.
        await self._wait(lambda: self._undecided(tx) and self._hub.abort(tx, reason))
        record = self._view.entries[tx].record
        if record.state == "preparing":
            raise RpcError("timeout", f"transaction {tx} is not decided within {_SETTLE_SECONDS:g} s; ask again")
        if record.state == "committed":
            raise RpcError("refused", f"transaction {tx} is decided: it is committed, and a decision is final")
        return self._view.entries[tx].summary()

    async def resolve(self, peer: Identity, params: Params) -> Answer:
        """The last resort: wait no longer for participants that never answer what was decided."""
        entry = self._entry(params)
        reason = _reason(params)
        names = _may_give_up(entry, self._hub.awaited(entry.record.id), params)
        operator = f"{peer.role}/{peer.name}"
        tx = entry.record.id
        _log.warning("%s gave up %s in transaction %s: %s", operator, ", ".join(names), tx, reason)
        await self._decisions.give_up(tx, operator, names, reason)
        self._hub.events_grown()
        self.carry_out(tx)
        await self._wait(lambda: not set(names).isdisjoint(self._view.entries[tx].record.missing()))
        return self._view.entries[tx].summary()

    async def call(self, peer: Identity, params: Params) -> Answer:
        """Call any one member of a group; a durable call that nobody answers becomes a dead letter."""
        text(params, "group")
        text(params, "method")
        _numbers(params)
        return dict(await self._letters.call(params, f"{peer.role}/{peer.name}"))

    async def dead_letters(self, _peer: Identity, _params: Params) -> Answer:
        """All dead letters, oldest first."""
        return {"letters": [dict(letter) for letter in await self._letters.list()]}

    async def retry(self, peer: Identity, params: Params) -> Answer:
        """Make the call of a dead letter again."""
        _log.info("%s/%s retries dead letter %s", peer.role, peer.name, text(params, "id"))
        return dict(await self._letters.retry(text(params, "id")))

    async def drop(self, peer: Identity, params: Params) -> Answer:
        """Forget a dead letter."""
        _log.warning("%s/%s drops dead letter %s", peer.role, peer.name, text(params, "id"))
        return dict(await self._letters.drop(text(params, "id")))

    def carry_out(self, tx: str) -> None:
        """Wait no longer for those who were given up in a transaction; again after each start, should it be open."""
        for names, text_ in self._decisions.resolutions(tx):
            self._hub.give_up(tx, names, text_)

    def _undecided(self, tx: str) -> bool:
        return self._view.entries[tx].record.state == "preparing"

    def _entry(self, params: Params) -> Entry:
        entry = self._view.entries.get(text(params, "id"))
        if entry is None:
            raise RpcError("not_found", f"there is no transaction {params['id']} (odysseyctl tx ls)")
        return entry

    @staticmethod
    async def _wait(goes_on: Callable[[], bool]) -> None:
        """Wait while something goes on, for a bounded time."""
        for _ in range(int(_SETTLE_SECONDS / _POLL_SECONDS)):
            if not goes_on():
                return
            await asyncio.sleep(_POLL_SECONDS)


def _numbers(params: Params) -> None:
    """Raise RpcError unless `timeout`, `attempts` and `params` of a call are what they should be."""
    for key in ("timeout", "attempts"):
        value = params.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST:
            raise RpcError("invalid", f"$.{key}: found {value!r}, must be a number above 0 and at most {_MOST}")
    if not isinstance(params.get("params", {}), Mapping):
        raise RpcError("invalid", f"$.params: found {params['params']!r}, must be an object")


def _reason(params: Params) -> str:
    return text(params, "reason")[:_REASON]


def _may_give_up(entry: Entry, awaited: tuple[str, ...], params: Params) -> tuple[str, ...]:
    """The participants to give up. Raises RpcError unless it is decided, and decided as the operator says."""
    record, wanted = entry.record, text(params, "heuristic")
    if wanted not in _DECISIONS:
        raise RpcError("invalid", f"$.heuristic: found {wanted!r}, must be commit or abort")
    if record.finished:
        raise RpcError("refused", f"transaction {record.id} is finished: nobody is waited for")
    if record.state == "preparing":
        text_ = f"transaction {record.id} is not decided yet; odysseyctl tx abort {record.id} aborts it"
        raise RpcError("refused", text_)
    if record.state != _DECISIONS[wanted]:
        raise RpcError(
            "refused", f"transaction {record.id} is {record.state}; a decision is final and cannot become {wanted}"
        )
    names = params.get("participants") or awaited
    if strangers := [name for name in names if name not in awaited]:
        raise RpcError(
            "invalid", f"$.participants: {strangers[0]!r} is not waited for; those are {', '.join(awaited) or 'none'}"
        )
    return tuple(names)
