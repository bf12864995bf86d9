# SPDX-License-Identifier: AGPL-3.0-or-later
"""odyssey-netconf as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from rdmp.tls import TlsFiles

QUICK = {
    "hold_seconds": 0.1, "verify_seconds": 1.0, "connect_attempts": 1, "lock_attempts": 1,
}  # fmt: skip
"""Short waits, so that tests see what happens by itself."""


RDMP = ("reconnect_max = 0.3", "effect_retry_max = 1.0")


class Daemon:
    """The daemon, with a certificate of ``files``, for an odysseyd on a port of this machine."""

    def __init__(self, folder: Path, files: TlsFiles, rdmp_port: int, **settings: Any) -> None:
        self.folder = folder
        self.process: asyncio.subprocess.Process | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for source, name in ((files.cert, "cert.pem"), (files.key, "key.pem"), (files.ca, "ca.pem")):
            (folder / name).write_bytes(source.read_bytes())
        (folder / "key.pem").chmod(0o600)
        self._table = {
            "orchestrators": [f"tls:127.0.0.1:{rdmp_port}"], "state_dir": str(folder / "state"),
            "pki_dir": str(folder), **QUICK, **settings,
        }  # fmt: skip

    async def start(self, **settings: Any) -> None:
        """Start it, with other settings from now on."""
        self._table |= settings
        lines = [f"{key} = {json.dumps(value)}" for key, value in self._table.items()]
        (self.folder / "netconf.toml").write_text("\n".join(["[netconf]", *lines, "[rdmp]", *RDMP, ""]))
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "controller.netconf.daemon", "--config", str(self.folder / "netconf.toml")),
                stdout=log, stderr=log,
            )  # fmt: skip

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()

    def log(self) -> str:
        return (self.folder / "log").read_text()
