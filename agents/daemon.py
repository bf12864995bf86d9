# SPDX-License-Identifier: AGPL-3.0-or-later
"""odyssey-agent: `run` keeps the nodes of this host, `join` gets the host its certificate."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.config import DEFAULT_CONFIG, Config, ConfigError, load
from agents.docker.containers import Owner
from agents.docker.driver import DockerDriver
from agents.docker.engine import Engine
from agents.driver import HostDriver, NodeError
from agents.participant import AgentParticipant
from agents.secrets import Secrets
from rdmp.endpoints import Endpoint
from rdmp.enrolment import ROLES, TOKEN_VARIABLE, EnrolmentError, default_folder, enrol, own_identity, pki_files
from rdmp.journal import JournalError
from rdmp.process import FolderHeldError, notify, only_one, stop_signal
from rdmp.runner import ParticipantRunner
from rdmp.tls import Identity, IdentityError

EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h: a restart does not help."""
EXIT_FAILED = 1

_log = logging.getLogger("odyssey-agent")


def main() -> None:
    """Entry point of `odyssey-agent`."""
    arguments = _parser().parse_args()
    try:
        if arguments.command == "join":
            asyncio.run(_join(arguments))
            return
        config = load(arguments.config)
        logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        asyncio.run(run(config))
    except (ConfigError, IdentityError, FolderHeldError) as error:
        print(f"odyssey-agent: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except (EnrolmentError, NodeError, JournalError, OSError) as error:
        print(f"odyssey-agent: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="odyssey-agent", description="Odyssey's agent of one Docker host.")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("run", help="keep the nodes of this host")
    start.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="TOML file (default: %(default)s)")
    join = commands.add_parser("join", help="get a certificate with a one-time token of: odysseyctl host join NAME")
    join.add_argument("--server", required=True, metavar="HOST:PORT", help="odysseyd's enrolment port, 7421 by default")
    join.add_argument("--name", default=socket.gethostname(), help="this host's name (default: %(default)s)")
    join.add_argument("--role", default="agent", choices=ROLES, help="what it joins as (default: %(default)s)")
    join.add_argument("--token", help=f"the token; `-` reads it from standard input (default: ${TOKEN_VARIABLE})")
    join.add_argument(
        "--pki", type=Path, help="where the files go (default: where programs of the role look for them)"
    )
    return parser


async def _join(arguments: argparse.Namespace) -> None:
    token = arguments.token or os.environ.get(TOKEN_VARIABLE, "")
    if token == "-":
        token = sys.stdin.readline()
    try:
        endpoint = Endpoint.parse(f"tls:{arguments.server}")
    except ValueError as error:
        raise EnrolmentError(f"--server {arguments.server!r} must be HOST:PORT") from error
    folder = arguments.pki or default_folder(arguments.role)
    joined = await enrol(endpoint, token.strip(), arguments.role, arguments.name, folder)
    print(f"joined as {joined.identity}; certificate, key and CA are in {folder}")


async def run(config: Config) -> None:
    """Run the agent until SIGTERM or SIGINT; its nodes run on. Raises whatever ends it early."""
    stop = stop_signal()
    identity = own_identity(config.pki_dir, "agent")
    with only_one(config.state_dir, "agent"):
        driver = _driver(config, identity)
        await driver.open()
        try:
            await _serve(config, identity, driver, stop)
        finally:
            await driver.close()


async def _serve(config: Config, identity: Identity, driver: HostDriver, stop: asyncio.Event) -> None:
    async def publish(topic: str, data: Mapping[str, Any]) -> None:
        await runner.publish(topic, data)

    participant = AgentParticipant(driver, identity.name, publish, config.agent)
    runner = ParticipantRunner(
        participant,
        config.state_dir / "journal.sqlite",
        identity,
        config.orchestrators,
        pki_files(config.pki_dir),
        config.rdmp,
    )

    async def ready() -> None:
        await participant.restored.wait()
        _log.info("agent of %s is ready; Docker at %s", identity, config.docker)
        notify("READY=1")
        await stop.wait()

    serving = asyncio.create_task(runner.run(), name="runner")
    tasks = [serving, asyncio.create_task(participant.background()), asyncio.create_task(ready())]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    await runner.stop()
    for task in tasks[1:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _driver(config: Config, identity: Identity) -> DockerDriver:
    return DockerDriver(
        Engine(config.docker, config.engine),
        Owner(identity.cluster, identity.name),
        config.state_dir,
        Secrets(config.secrets_dir, config.run_dir / "secrets"),
        pool_size=config.pool,
        stop_grace=config.agent.stop_grace,
        policy=config.workload,
    )
