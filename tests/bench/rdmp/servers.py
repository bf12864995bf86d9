# SPDX-License-Identifier: AGPL-3.0-or-later
"""The peers' servers, each a foreground process on the loopback with its data in the benchmark's folder."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.bench.rdmp.support import BenchError

START_SECONDS = 60.0
STOP_SECONDS = 10.0
HOST = "127.0.0.1"


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(
    command: list[str], log: Path, port: int, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; it is ready when it accepts connections. Raises BenchError."""
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent,
                env={**os.environ, **(environment or {})}, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            raise BenchError(f"{command[0]} is not installed; run: make bench-rdmp (it installs it)") from None
    try:
        await_true(lambda: process.poll() is not None or _accepts(port), f"{command[0]} to listen; see {log}")
        if process.poll() is not None:
            words = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise BenchError(f"{command[0]} ended at once:\n{words}")
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and everything that it started: politely, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            if number == signal.SIGKILL:
                return


def await_true(condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    """Wait until a condition holds. Raises BenchError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise BenchError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


@contextlib.contextmanager
def etcd(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """etcd 3.4, one member: every write is a Raft entry in a write-ahead log that is synced before the answer."""
    folder.mkdir(parents=True, exist_ok=True)
    client, peer = free_port(), free_port()
    command = [
        "etcd", "--name", "bench", "--data-dir", str(folder / "data"),
        "--listen-client-urls", f"http://{HOST}:{client}", "--advertise-client-urls", f"http://{HOST}:{client}",
        "--listen-peer-urls", f"http://{HOST}:{peer}", "--initial-advertise-peer-urls", f"http://{HOST}:{peer}",
        "--initial-cluster", f"bench=http://{HOST}:{peer}", "--logger", "zap", "--log-level", "error",
    ]  # fmt: skip
    with server(command, folder / "log", client) as process:
        time.sleep(1.0)  # it elects itself
        yield process, client


@contextlib.contextmanager
def nats(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """NATS server with JetStream on files. It answers before the data is synced: `sync_interval` is 2 minutes."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = ["nats-server", "--addr", HOST, "--port", str(port), "--jetstream", "--store_dir", str(folder / "data")]
    with server(command, folder / "log", port) as process:
        yield process, port


@contextlib.contextmanager
def rabbitmq(folder: Path) -> Iterator[tuple[int, int]]:
    """RabbitMQ, one node; gives the process id of its Erlang machine and the port."""
    folder.mkdir(parents=True, exist_ok=True)
    port, distribution, names = free_port(), free_port(), free_port()
    home = folder / "home"
    home.mkdir()
    cookie = home / ".erlang.cookie"
    cookie.touch(mode=0o600)
    cookie.write_text("odysseybench", encoding="ascii")
    cookie.chmod(0o400)
    (folder / "plugins").write_text("[].\n", encoding="ascii")
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.default = {HOST}:{port}\n", encoding="ascii")
    environment = {
        "HOME": str(home), "RABBITMQ_NODENAME": "bench@localhost",
        "RABBITMQ_MNESIA_BASE": str(folder / "data"), "RABBITMQ_LOG_BASE": str(folder), "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODE_IP_ADDRESS": HOST, "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"), "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"), "ERL_EPMD_ADDRESS": HOST, "ERL_EPMD_PORT": str(names),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false",
    }  # fmt: skip
    with (
        server(["epmd", "-address", HOST, "-port", str(names)], folder / "epmd.log", names),
        server(["/usr/lib/rabbitmq/bin/rabbitmq-server"], folder / "log", port, environment),
    ):
        await_true((folder / "pid").exists, "RabbitMQ's pid file")
        yield int((folder / "pid").read_text(encoding="ascii")), port
