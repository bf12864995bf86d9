# SPDX-License-Identifier: AGPL-3.0-or-later
"""odyssey-netconf: takes part in transactions for the configuration of switches."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from controller.events import Events
from controller.netconf.backups import Backups
from controller.netconf.config import DEFAULT_CONFIG, Config, ConfigError, load
from controller.netconf.devices import Reconnect
from controller.netconf.driver import Tuning
from controller.netconf.participant import NetconfParticipant
from controller.netconf.ssh import SshSession, Waits
from rdmp.enrolment import own_identity, pki_files
from rdmp.journal import JournalError
from rdmp.process import FolderHeldError, notify, only_one, stop_signal
from rdmp.runner import ParticipantRunner
from rdmp.tls import Identity, IdentityError

EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h: a restart does not help
EXIT_FAILED = 1

_log = logging.getLogger("odyssey-netconf")


def main() -> None:
    """Entry point of ``odyssey-netconf``."""
    parser = argparse.ArgumentParser(prog="odyssey-netconf", description="Odyssey's configuration of the switches.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="TOML file (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        config = load(arguments.config)
        logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        for noisy in ("ncclient", "paramiko"):
            logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
        asyncio.run(run(config))
    except (ConfigError, IdentityError, FolderHeldError) as error:
        print(f"odyssey-netconf: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except (JournalError, OSError) as error:
        print(f"odyssey-netconf: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


async def run(config: Config) -> None:
    """Run until SIGTERM or SIGINT; the switches stay as they are.  Raises whatever ends it early."""
    stop = stop_signal()
    identity = own_identity(config.pki_dir, "netconf")
    with only_one(config.state_dir, "odyssey-netconf"):
        await _serve(config, identity, stop)


async def _serve(config: Config, identity: Identity, stop: asyncio.Event) -> None:
    waits = Waits(config.connect_seconds, config.request_seconds, config.keepalive_seconds)
    events = Events()
    participant = NetconfParticipant(
        events.put,
        lambda management: SshSession(management, waits),
        Backups(config.state_dir / "backups", config.backups_kept),
        tuning=Tuning(config.confirm_seconds, config.lock_attempts, config.lock_wait_seconds),
        reconnect=Reconnect(config.connect_attempts),
    )
    journal = config.state_dir / "journal.sqlite"
    files = pki_files(config.pki_dir)
    runner = ParticipantRunner(participant, journal, identity, config.orchestrators, files, config.rdmp)

    async def keep() -> None:
        await participant.restored.wait()
        _log.info("%s configures switches", identity)
        notify("READY=1")
        await participant.keeper.keep(config.hold_seconds, config.verify_seconds, mend=config.mend_drift)

    serving = asyncio.create_task(runner.run(), name="runner")
    ending = asyncio.create_task(stop.wait(), name="stop")
    tasks = [serving, ending, asyncio.create_task(keep(), name="keeper"), asyncio.create_task(events.forward(runner))]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    await runner.stop()
    for task in tasks[1:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await participant.close()
    for task in done:
        task.result()


if __name__ == "__main__":
    main()
