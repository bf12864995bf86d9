# SPDX-License-Identifier: AGPL-3.0-or-later
"""odyssey-controller: takes part in transactions for the switches and keeps them as decided."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from controller.config import DEFAULT_CONFIG, Config, ConfigError, load
from controller.events import Events
from controller.fabric import IntentRefused
from controller.metrics_server import MetricsError, MetricsServer
from controller.openflow.terminator import Terminator
from controller.participant import ControllerParticipant
from controller.tenure import Tenure, TenureError
from rdmp.enrolment import own_identity, pki_files
from rdmp.journal import JournalError
from rdmp.process import FolderHeldError, notify, only_one, stop_signal
from rdmp.runner import ParticipantRunner
from rdmp.tls import Identity, IdentityError
from rdmp.tuning import collect_rarely

EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h: a restart does not help
EXIT_FAILED = 1

_log = logging.getLogger("odyssey-controller")


def main() -> None:
    """Entry point of ``odyssey-controller``."""
    parser = argparse.ArgumentParser(prog="odyssey-controller", description="Odyssey's controller of the switches.")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="TOML file (default: %(default)s)")
    arguments = parser.parse_args()
    collect_rarely()  # entries are many small objects that live long
    try:
        config = load(arguments.config)
        logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        asyncio.run(run(config))
    except (ConfigError, IdentityError, FolderHeldError, MetricsError) as error:
        print(f"odyssey-controller: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except (JournalError, IntentRefused, TenureError, OSError) as error:
        print(f"odyssey-controller: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


async def run(config: Config) -> None:
    """Run until SIGTERM or SIGINT; the switches go on as they are.  Raises whatever ends it early."""
    stop = stop_signal()
    identity = own_identity(config.pki_dir, "controller")
    with only_one(config.state_dir, "controller"):
        await _serve(config, identity, stop)


async def _serve(config: Config, identity: Identity, stop: asyncio.Event) -> None:
    files = pki_files(config.pki_dir)
    events = Events(controller=identity.name)  # of which there may be several
    participant = ControllerParticipant(
        events.put,
        Tenure(config.state_dir / "tenure.json"),
        allow_absent=config.allow_absent_switches,
        verify_seconds=config.verify_seconds,
        wait_seconds=config.switch_wait_seconds,
        lldp_seconds=config.lldp_seconds,
    )
    journal = config.state_dir / "journal.sqlite"
    runner = ParticipantRunner(participant, journal, identity, config.orchestrators, files, config.rdmp)
    switches = participant.switches
    terminator = Terminator(identity.cluster, files.server_context(), switches.connected, switches.refused)
    metrics = MetricsServer(participant.views.snapshot, identity.cluster, files.server_context())

    async def listen() -> None:
        # Not before the intent is known: a switch must never be compared with nothing.
        await participant.restored.wait()
        port = await terminator.start(*config.openflow_listen)
        _log.info("%s listens for switches on %s:%d", identity, config.openflow_listen[0], port)
        if config.metrics_listen is not None:
            port = metrics.start(*config.metrics_listen)
            _log.info("metrics on %s:%d", config.metrics_listen[0], port)
        notify("READY=1")
        await stop.wait()

    serving = asyncio.create_task(runner.run(), name="runner")
    tasks = [serving, asyncio.create_task(listen(), name="openflow"), asyncio.create_task(events.forward(runner))]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    await terminator.stop()
    await metrics.stop()
    await runner.stop()
    for task in tasks[1:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


if __name__ == "__main__":
    main()
