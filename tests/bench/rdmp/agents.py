# SPDX-License-Identifier: AGPL-3.0-or-later
"""Simulated agents as a process of their own: one with its own journal, or many that share one."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from rdmp.endpoints import Endpoint
from rdmp.groupcommit import GroupCommit
from rdmp.journal import Journal
from rdmp.limits import Limits
from rdmp.runner import ParticipantRunner
from rdmp.tls import Identity, TlsFiles
from rdmp.tuning import collect_rarely
from tests.bench.rdmp.simulated import CLUSTER, SharedJournal, Simulated
from tests.bench.rdmp.support import Json, memory, obey, raise_file_limit


def tls_files(folder: Path, name: str) -> TlsFiles:
    """Where the parent has put the certificate of an agent; all agents of a bench share one key."""
    return TlsFiles(folder / f"{name}.pem", folder / "agents.key", folder / "ca.pem")


async def main(settings: dict[str, Any]) -> None:
    """Run the agents until standard input ends."""
    raise_file_limit()
    collect_rarely()
    logging.basicConfig(level=logging.ERROR)
    folder, pki = Path(settings["folder"]), Path(settings["pki"])
    names: list[str] = settings["names"]
    limits = Limits.from_table(settings["limits"])
    endpoints = [Endpoint("tls", settings["host"], settings["port"])]
    shared: GroupCommit | None = None
    if len(names) > 1:
        shared = await SharedJournal.shared(folder / f"{names[0]}.journal")
    runners, file = [], shared
    for name in names:
        path = folder / f"{name}.journal"
        journal = Journal(path) if shared is None else SharedJournal(path, name, shared)
        file = file or journal.file
        identity = Identity(CLUSTER, "agent", name)
        runners.append(ParticipantRunner(Simulated(), journal, identity, endpoints, tls_files(pki, name), limits))
    tasks = [asyncio.create_task(runner.run()) for runner in runners]

    async def usage(order: Json) -> Json:
        syncs = 0 if file is None else file.syncs
        return {"cpu": time.process_time(), "rss": memory(), "syncs": syncs}

    await obey({"agents": len(names)}, {"usage": usage})
    for runner in runners:
        await runner.stop()
    await asyncio.wait(tasks, timeout=5.0)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
