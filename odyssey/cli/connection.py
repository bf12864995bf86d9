# SPDX-License-Identifier: AGPL-3.0-or-later
"""The way to odysseyd: which socket or server, and a session that survives a restart of the daemon."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from odyssey.cli.exits import Exit, Failure
from odyssey.cli.text import seconds
from rdmp.client import Client
from rdmp.endpoints import Endpoint
from rdmp.enrolment import default_folder
from rdmp.messages import Welcome
from rdmp.rpc import PeerAbsent, RpcError
from rdmp.tls import TlsFiles

T = TypeVar("T")
OnProgress = Callable[[Mapping[str, Any]], None]

SYSTEM_SOCKET = Path("/run/odyssey/odysseyd.sock")
LAB_DIRECTORY = Path("/var/lib/odyssey-lab")
LAB_SOCKET = Path("odysseyd/odysseyd.sock")

RECONNECT_FIRST = 0.2
RECONNECT_LONGEST = 3.0
DEFAULT_RECONNECT = 60.0
"""Seconds for which a lost connection is looked for again before odysseyctl gives up."""

_UNSURE = frozenset({"failed", "internal", "timeout"})
"""Codes of errors after which it is not sure that nothing was done."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where odysseyd is, and how long to look for it again when it goes away."""

    endpoint: Endpoint
    tls: TlsFiles | None
    reconnect: float = DEFAULT_RECONNECT


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What the user said on the command line or in the environment."""

    socket: str | None = None
    server: str | None = None
    pki: str | None = None
    reconnect: float = DEFAULT_RECONNECT

    def target(self, environment: Mapping[str, str] = os.environ) -> Target:
        """The place to connect to. Raises Failure (usage) for what cannot be one."""
        if self.socket and self.server:
            raise Failure("--socket and --server exclude each other: choose one", Exit.USAGE)
        if self.server:
            pki = Path(self.pki) if self.pki else default_folder("operator")
            return Target(_endpoint(f"tls:{self.server}"), _tls_files(pki), self.reconnect)
        path = Path(self.socket) if self.socket else default_socket(environment)
        return Target(_endpoint(f"unix:{path.absolute()}"), None, self.reconnect)


def default_socket(environment: Mapping[str, str]) -> Path:
    """The lab's socket if ODYSSEY_LAB is set; else the system's, or the default lab's if only that one exists."""
    if environment.get("ODYSSEY_LAB"):
        return Path(environment["ODYSSEY_LAB"]) / LAB_SOCKET
    lab = LAB_DIRECTORY / LAB_SOCKET
    return lab if lab.exists() and not SYSTEM_SOCKET.exists() else SYSTEM_SOCKET


def _endpoint(text: str) -> Endpoint:
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from error


def _tls_files(directory: Path) -> TlsFiles:
    """The operator's certificate; its files are named as `odysseyctl ca issue` names them."""
    files = TlsFiles(directory / "cert.pem", directory / "key.pem", directory / "ca.pem")
    for path in (files.cert, files.key, files.ca):
        if not path.is_file():
            raise Failure(
                f"{path} is missing: --pki must name a directory with cert.pem, key.pem and ca.pem",
                Exit.USAGE,
                advice="`odysseyctl host join NAME --role operator` prints the command that fetches one",
            )
    return files


class _Link(Client):
    """A client that knows whether its connection stands: odysseyd may answer that a participant is absent, too."""

    def __init__(self) -> None:
        super().__init__()
        self.connected = False

    async def connect(self, endpoint: Endpoint, tls: TlsFiles | None = None) -> Welcome:
        welcome = await super().connect(endpoint, tls)
        self.connected = True
        return welcome

    def lost(self, reason: str) -> None:
        self.connected = False
        super().lost(reason)


class Session:
    """One connection to odysseyd, made again when it is lost.

    Every call may be repeated: questions change nothing, and a service call carries the id that makes a repeat the
    same call. The first connection is tried once, so that a wrong address is told at once.
    """

    def __init__(
        self,
        target: Target,
        note: Callable[[str], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`note` is told of lost and found connections."""
        self._target = target
        self._note = note
        self._sleep = sleep
        self._link = _Link()
        self._reconnected = -math.inf

    async def __aenter__(self) -> Session:
        await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.close()

    def since_reconnect(self) -> float:
        """Seconds since the connection was last made again; infinite if it never was."""
        return time.monotonic() - self._reconnected

    async def call(
        self, method: str, params: Mapping[str, Any], *, on_progress: OnProgress | None = None, timeout: float
    ) -> dict[str, Any]:
        """The answer of odysseyd; repeated after a lost connection. Raises Failure."""

        async def once(client: Client) -> dict[str, Any]:
            return dict(await client.call(method, params, on_progress=on_progress, timeout=timeout))

        return await self.repeating(once)

    async def repeating(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Do `work` with a connection, again with a new one whenever it breaks. Raises Failure."""
        while True:
            try:
                return await work(self._link)
            except PeerAbsent as error:
                if self._link.connected:  # a participant is away, not odysseyd
                    raise refusal(error) from error
                await self._reconnect(self._reason(error))
            except RpcError as error:
                raise refusal(error) from error

    async def _reconnect(self, why: str) -> None:
        """Look for odysseyd again with growing pauses. Raises Failure when the time is up."""
        await self._link.close()
        limit = self._target.reconnect
        self._note(f"connection to odysseyd lost ({why}); trying again for {seconds(limit)}")
        waited, pause = 0.0, RECONNECT_FIRST
        while waited < limit:
            delay = min(pause * random.uniform(0.5, 1.0), limit - waited)
            await self._sleep(delay)
            waited, pause = waited + delay, min(2 * pause, RECONNECT_LONGEST)
            try:
                await self._connect()
            except Failure as error:
                why = error.message
                continue
            self._note("connected again")
            self._reconnected = time.monotonic()
            return
        raise Failure(
            f"odysseyd did not come back within {seconds(limit)}; {why}", Exit.UNREACHABLE, advice=self._advice()
        )

    async def _connect(self) -> None:
        self._link = _Link()
        try:
            await self._link.connect(self._target.endpoint, self._target.tls)
        except (OSError, ValueError, RpcError) as error:
            raise Failure(
                f"cannot reach odysseyd at {self._target.endpoint}: {self._reason(error)}",
                Exit.UNREACHABLE,
                advice=self._advice(),
            ) from error

    def _reason(self, error: BaseException) -> str:
        return str(error).removeprefix(f"{self._target.endpoint}: ") or type(error).__name__

    def _advice(self) -> str:
        if self._target.endpoint.kind == "unix":
            return (
                "Is odysseyd running there, and are you root? Another place: --socket PATH, or "
                "--server HOST:PORT --pki DIR (environment: ODYSSEYCTL_SOCKET, ODYSSEYCTL_SERVER, ODYSSEYCTL_PKI)"
            )
        return "Is odysseyd listening there (`tls_listen`), and is the certificate in --pki of its CA?"


def refusal(error: RpcError) -> Failure:
    """An error answer of odysseyd with the exit code that it means."""
    code = Exit.FAILED if error.code in _UNSURE else Exit.REFUSED
    return Failure(error.message, code, error.faults)
