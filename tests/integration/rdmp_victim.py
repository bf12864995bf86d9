# SPDX-License-Identifier: AGPL-3.0-or-later
"""A participant in a process of its own, made to be killed: python -m tests.integration.rdmp_victim FOLDER NAME PORT.

Its effects are files: ``made/<tx>.<n>`` for each time a thing was made, ``world/<tx>`` with a line for each stage.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rdmp.endpoints import Endpoint
from rdmp.participant import Effect, Participant, Transaction
from rdmp.runner import ParticipantRunner
from rdmp.tls import TlsFiles
from tests.integration.rdmp_support import FAST

PAUSE = 0.002  # seconds in each effect, so that kills also hit inside


class FileParticipant(Participant):
    """Makes a file for each transaction and a line in it for each stage; finds what it made before."""

    def __init__(self, folder: Path) -> None:
        self.world = folder / "world"
        self.made = folder / "made"
        for path in (self.world, self.made):
            path.mkdir(parents=True, exist_ok=True)

    async def prepare(self, tx: Transaction) -> Effect:
        await asyncio.sleep(PAUSE)
        self._make(tx.id, "prepared")
        await asyncio.sleep(PAUSE)
        return Effect()

    async def commit(self, tx: Transaction, stage: str) -> Effect:
        await asyncio.sleep(PAUSE)
        self._make(tx.id, stage)
        await asyncio.sleep(PAUSE)
        return Effect(state={f"{tx.id}/{stage}": {"seq": tx.seq}})

    async def abort(self, tx: Transaction) -> Effect:
        await asyncio.sleep(PAUSE)
        (self.world / tx.id).unlink(missing_ok=True)
        return Effect()

    async def status(self, tx_id: str) -> Mapping[str, Any]:
        return {"things": self.things(tx_id)}

    async def observe(self) -> Mapping[str, Any]:
        return {"revision": 0}

    async def call(
        self, method: str, params: Mapping[str, Any], progress: Callable[[Mapping[str, Any]], Awaitable[None]]
    ) -> Mapping[str, Any]:
        return params

    async def restore(self, state: Mapping[str, Mapping[str, Any]], in_doubt: Sequence[Transaction]) -> None:
        """Files stay where they are."""

    def things(self, tx: str) -> list[str]:
        """Return what there is of a transaction."""
        path = self.world / tx
        return path.read_text().split() if path.exists() else []

    def _make(self, tx: str, thing: str) -> None:
        if thing not in self.things(tx):
            with (self.world / tx).open("a") as world, (self.made / tx).open("a") as made:
                world.write(f"{thing}\n")
                made.write(f"{thing}\n")


async def main(folder: Path, name: str, port: int) -> None:
    """Run until killed."""
    pki = folder.parent / "pki"
    files = TlsFiles(pki / f"agent-{name}.pem", pki / f"agent-{name}.key", pki / "ca.pem")
    runner = ParticipantRunner(
        FileParticipant(folder), folder / "journal", files.identity(), [Endpoint("tls", "127.0.0.1", port)], files, FAST
    )
    await runner.run()


def leave_with_parent() -> None:
    """End the process when the test that started it is gone."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=leave_with_parent, daemon=True).start()
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
