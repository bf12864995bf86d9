# SPDX-License-Identifier: AGPL-3.0-or-later
"""odyssey-controller as a process of its own, for tests that kill it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from rdmp.tls import TlsFiles


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


class Daemon:
    """The controller as a process of its own."""

    def __init__(self, folder: Path, files: TlsFiles, rdmp_port: int, **options: Any) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        self.folder = folder
        self.process: asyncio.subprocess.Process | None = None
        folder.mkdir(exist_ok=True, parents=True)
        for source, name in ((files.cert, "cert.pem"), (files.key, "key.pem"), (files.ca, "ca.pem")):
            (folder / name).write_bytes(source.read_bytes())
        (folder / "key.pem").chmod(0o600)
        table = {
            "orchestrators": [f"tls:127.0.0.1:{rdmp_port}"],
            "state_dir": str(folder / "state"),
            "pki_dir": str(folder),
            "openflow_listen": f"0.0.0.0:{self.port}",
            "metrics_listen": f"127.0.0.1:{self.metrics_port}",
            "verify_seconds": 1.0,
            "switch_wait_seconds": 1.0,
        } | options
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        (folder / "controller.toml").write_text(
            "\n".join(["[controller]", *lines, "[rdmp]", "reconnect_max = 0.3", ""])
        )

    async def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "controller.daemon", "--config", str(self.folder / "controller.toml")),
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal that does not end it."""
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(15):
            return await self.process.wait()

    def log(self) -> str:
        return (self.folder / "log").read_text()
