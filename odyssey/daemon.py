# SPDX-License-Identifier: AGPL-3.0-or-later
"""odysseyd: puts store, decision log, hub, engine and API together and keeps them running."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odyssey.api.bus import Bus
from odyssey.api.fabric import FabricQueries
from odyssey.api.handler import Api, Service
from odyssey.api.netconf import NetconfQueries
from odyssey.api.queries import Queries
from odyssey.api.roles import roles_from_documents
from odyssey.config import Config, ConfigError, load
from odyssey.orchestrator.calls import CallBook
from odyssey.orchestrator.deadletters import DeadLetters
from odyssey.orchestrator.engine import Engine
from odyssey.orchestrator.leadership import Leadership
from odyssey.orchestrator.questions import Questions
from odyssey.orchestrator.settle import Settler
from odyssey.orchestrator.steps import StepRunner
from odyssey.security.ca import CaError, CertificateAuthority
from odyssey.security.enrol import EnrolServer, Report, enrol_context
from odyssey.security.tokens import JoinTokens
from odyssey.state.decisions import StoreDecisionLog
from odyssey.state.eventlog import StoreEventLog
from odyssey.state.retention import Retention
from odyssey.state.sqlite import SqliteStore
from odyssey.state.store import LeaseHeldError, Store, StoreError, StoreUnusableError
from odyssey.state.tokens import StoredTokens
from odyssey.state.view import StateView
from rdmp.enrolment import own_identity
from rdmp.hub import Hub
from rdmp.limits import Limits
from rdmp.process import notify, stop_signal
from rdmp.tls import Identity, IdentityError, server_context
from rdmp.tuning import collect_rarely

_log = logging.getLogger("odysseyd")
EXIT_CONFIG = 78
"""EX_CONFIG of sysexits.h: a restart does not help."""
EXIT_FAILED = 1


def main() -> None:
    """Entry point of `odysseyd`."""
    parser = argparse.ArgumentParser(prog="odysseyd", description="Odyssey's orchestrator daemon.")
    default = Path("/etc/odyssey/odysseyd.toml")
    parser.add_argument("--config", type=Path, default=default, help="TOML file (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        config = load(arguments.config)
        logging.basicConfig(level=config.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        collect_rarely()
        asyncio.run(_run(config))
    except (ConfigError, StoreUnusableError, LeaseHeldError, CaError, IdentityError) as error:
        print(f"odysseyd: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except (StoreError, OSError) as error:
        print(f"odysseyd: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


async def _run(config: Config) -> None:
    stop = stop_signal()
    async with running(config):
        notify("READY=1")
        _log.info("ready; %s", config.unix_socket)
        await stop.wait()
        notify("STOPPING=1")


@contextlib.asynccontextmanager
async def running(config: Config) -> AsyncIterator[Hub]:
    """The whole daemon, from the moment it serves to the moment it has stopped."""
    async with contextlib.AsyncExitStack() as stack:
        store = SqliteStore(config.state_dir)
        await store.open()
        stack.push_async_callback(store.close)
        lease = await store.acquire(config.name)
        state = await _State.load(store)
        authority = CertificateAuthority.load(config.ca_dir) if config.ca_dir else None
        tokens = JoinTokens(StoredTokens(store), config.cluster, authority.fingerprint) if authority else None
        hub, settler, bus, leadership = _assemble(config, state, tokens, lease.epoch)
        stack.push_async_callback(hub.close)
        _log.info("leading %s under epoch %d, state at index %d", config.cluster, lease.epoch, state.view.index)
        await leadership.load()
        await hub.recover()
        for record in state.view.unfinished():
            bus.carry_out(record.id)
        await _serve(config, hub)
        if authority and tokens and config.enrol_listen:
            context = enrol_context(config.pki_dir / "cert.pem", config.pki_dir / "key.pem")
            enrolment = EnrolServer(authority, tokens, context, report=_joined(hub))
            await enrolment.serve(*config.enrol_listen)
            stack.push_async_callback(enrolment.close)
        retention = Retention(store, config.limits.events_kept, config.limits.events_max_age)
        trimming = asyncio.create_task(retention.run(), name="retention")
        stack.callback(trimming.cancel)
        settling = asyncio.create_task(settler.run(), name="settler")
        stack.callback(settling.cancel)
        leading = asyncio.create_task(leadership.run(), name="leadership")
        stack.callback(leading.cancel)
        yield hub


@dataclass(frozen=True, slots=True)
class _State:
    """What stands in the store, and what keeps it."""

    store: Store
    view: StateView
    decisions: StoreDecisionLog
    events: StoreEventLog
    calls: CallBook

    @classmethod
    async def load(cls, store: Store) -> _State:
        view = StateView()
        state = cls(store, view, StoreDecisionLog(store, view), StoreEventLog(store), CallBook(store))
        await state.decisions.load()
        for call_id in await state.calls.interrupt():
            _log.warning("call %s was cut off by a restart; repeat it with the same id to take it up again", call_id)
        return state


def _assemble(
    config: Config, state: _State, tokens: JoinTokens | None, epoch: int
) -> tuple[Hub, Settler, Bus, Leadership]:
    """Wire the parts; nothing serves yet."""
    try:
        roles, limits = roles_from_documents(config.roles), Limits.from_table(config.rdmp)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    api = Api(roles)
    identity = Identity(config.cluster, "orchestrator", config.name)
    hub = Hub(identity, state.decisions, state.events, api, epoch, state.view.incarnation, limits)
    leadership = Leadership(hub, state.store, state.view, state.decisions, config.limits, epoch)
    questions = Questions(hub, config.limits.agent_timeout, leadership.spokesman)
    runner = StepRunner(hub, questions, leadership, epoch, config.limits.drain_poll)
    engine = Engine(state.view, state.calls, questions, runner, config.limits)
    queries = Queries(config.cluster, epoch, state.view, state.calls, questions, hub, leadership.status)
    bus = Bus(epoch, state.view, state.decisions, hub, DeadLetters(state.store, hub))
    fabric = FabricQueries(questions, hub, queries.cabling)
    netconf = NetconfQueries(state.view, questions)
    api.open(Service(engine, roles), queries, fabric, netconf, bus, tokens, _address(config.enrol_listen))
    return hub, Settler(engine, config.limits.settle_interval), bus, leadership


def _address(listen: tuple[str, int] | None) -> str | None:
    return None if listen is None else f"[{listen[0]}]:{listen[1]}" if ":" in listen[0] else f"{listen[0]}:{listen[1]}"


async def _serve(config: Config, hub: Hub) -> None:
    config.unix_socket.parent.mkdir(parents=True, exist_ok=True)
    await hub.serve_unix(config.unix_socket)
    if config.tls_listen:
        own_identity(config.pki_dir, "orchestrator")
        files = config.pki_dir
        context = server_context(files / "cert.pem", files / "key.pem", files / "ca.pem")
        await hub.serve_tls(*config.tls_listen, context)


def _joined(hub: Hub) -> Report:
    async def report(who: Mapping[str, Any]) -> None:
        await hub.publish("peer.joined", who)

    return report


if __name__ == "__main__":
    main()
