# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Nexus and an Allied Telesis switch under one participant, which can be killed and started again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from controller.netconf.backups import Backups
from controller.netconf.datamodel import Target
from controller.netconf.device import DeviceConfig
from controller.netconf.devices import DRIVERS, Reconnect
from controller.netconf.driver import Tuning
from controller.netconf.participant import NetconfParticipant
from rdmp.participant import Effect, Json, Transaction
from tests.integration.netconf_support import NetconfServer, Switchboard
from tests.netconf import samples

TUNING = Tuning(confirm_seconds=30, lock_attempts=2, lock_wait_seconds=0.1)
Documents = dict[str, dict[str, Any] | None]


class World:
    """A Nexus and an Allied Telesis switch, and a participant that can be killed and started again."""

    def __init__(self, nexus: NetconfServer, allied: NetconfServer, folder: Path) -> None:
        self.servers = {"sw1": nexus, "sw2": allied}
        self.folder = folder
        self.board = Switchboard()
        self.events: list[tuple[str, Json]] = []
        self.journal: dict[str, Json] = {}
        self.participant = self._made()
        self._dead: list[NetconfParticipant] = []

    def _made(self) -> NetconfParticipant:
        return NetconfParticipant(
            lambda topic, data: self.events.append((topic, data)),
            self.board.connect,
            Backups(self.folder / "backups", 3),
            tuning=TUNING,
            reconnect=Reconnect(2, 0.1),
        )

    async def restart(self, *in_doubt: Transaction) -> None:
        """Kill the process: its sessions end at once, without a word; the journal is what it was."""
        for wire in self.board.wires.values():
            wire.close()
        self._dead.append(self.participant)
        self.participant = self._made()
        await self.participant.restore(dict(self.journal), in_doubt)

    def wish(self, vlans: dict[int, str] = samples.SHOP) -> Documents:
        return {
            "device/sw1": samples.nexus(vlans, self.servers["sw1"].access),
            "device/sw2": samples.allied(vlans, self.servers["sw2"].access),
        }

    async def prepare(self, tx: Transaction) -> Effect:
        return self._written(await self.participant.prepare(tx))

    async def commit(self, tx: Transaction) -> Effect:
        return self._written(await self.participant.commit(tx, "admit"))

    async def abort(self, tx: Transaction) -> Effect:
        return self._written(await self.participant.abort(tx))

    async def carry_out(self, tx: Transaction) -> Effect:
        await self.prepare(tx)
        return await self.commit(tx)

    async def call(self, method: str, params: Json, steps: list[Json] | None = None) -> Json:
        """Ask the participant; ``steps`` gathers its progress, and without it there must be none."""

        async def progress(data: Json) -> None:
            assert steps is not None, data
            steps.append(data)

        return await self.participant.call(method, params, progress)

    def _written(self, effect: Effect) -> Effect:
        for key, document in effect.state.items():
            if document is None:
                self.journal.pop(key, None)
            else:
                self.journal[key] = document
        return effect

    async def holds(self, vlans: dict[int, str] | None, *switches: str) -> bool:
        """Tell whether switches hold the wish with these VLANs, or nothing of ours."""

        def one(name: str) -> bool:
            server = self.servers[name]
            config = DeviceConfig.parse(self.wish(vlans or samples.SHOP)[f"device/{name}"] or {})
            session = server.session()
            try:
                driver = DRIVERS[config.profile](session, TUNING)
                target = Target.of(None, config)
                return not driver.look(target.back_to({}) if vlans is None else target)
            finally:
                session.close()

        found = [await asyncio.to_thread(one, name) for name in switches or self.servers]
        return all(found)

    async def close(self) -> None:
        for participant in (*self._dead, self.participant):
            await participant.close()


def transaction(tx: str, changes: Documents, stage: str | None = None) -> Transaction:
    operation = {"prepare": None, "stages": {"admit": {"changes": changes}}}
    return Transaction(tx, int(tx.removeprefix("t")), 1, operation, 30.0, stage)
