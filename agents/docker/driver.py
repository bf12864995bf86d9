# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Docker host: nodes as containers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from agents.connections import Connections, count
from agents.docker.containers import SANDBOX, TX, WORKLOAD, Listed, Owner, Policy, sandbox_name
from agents.docker.engine import Engine, EngineError
from agents.docker.events import EventStream
from agents.docker.node import NodeContainers, together
from agents.docker.pool import Pool
from agents.driver import HostDriver, HostFacts, HostUnreachable, NodeError, NodeEvent, NodeFacts, NodeHeld, NodeState
from agents.files import NodeFiles
from agents.health import Probe, probe
from agents.namespace import in_thread
from agents.network import Network, NetworkError
from agents.nics import NicWatch
from agents.plugs import Plugs
from agents.secrets import SecretError, Secrets
from agents.spec import NodeSpec, Phase

_LIVE_RESTORE = (
    "the Docker engine of this host ends its containers when it is restarted, but nodes must outlive that;"
    ' set "live-restore": true in /etc/docker/daemon.json and reload the engine'
)
_RUNNING = ("running", "paused", "restarting")

_log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
_Method = Callable[P, Coroutine[Any, Any, R]]


def _for_people(method: _Method[P, R]) -> _Method[P, R]:
    """Turn every error that a host can give into NodeError."""

    @wraps(method)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(*args, **kwargs)
        except (EngineError, NetworkError, SecretError) as error:
            unreachable = isinstance(error, EngineError) and error.unreachable
            raise (HostUnreachable if unreachable else NodeError)(str(error)) from error
        except OSError as error:
            raise NodeError(f"{error.filename or 'the host'}: {error.strerror or error}") from error

    return wrapped


class DockerDriver(HostDriver):
    """One Docker engine and the host around it."""

    def __init__(
        self,
        engine: Engine,
        owner: Owner,
        state_dir: Path,
        secrets: Secrets,
        *,
        pool_size: int,
        stop_grace: float,
        policy: Policy | None = None,
    ) -> None:
        """`stop_grace` is the seconds between asking a workload to end and killing it."""
        self._engine = engine
        self._owner = owner
        self._secrets = secrets
        self._network = Network(owner.alias)
        self._files = NodeFiles(state_dir / "nodes")
        self._pool = Pool(engine, owner, pool_size)
        self._plugs = Plugs(self._network, self._vlans_in_use)
        self._nics = NicWatch(self._network.host_nics, self._nics_changed)
        self._containers = NodeContainers(
            engine, owner, self._pool, self._files, secrets, self._plugs, policy or Policy(), stop_grace
        )
        self._listened: dict[str, frozenset[int]] = {}
        self._live_restore = False

    @_for_people
    async def open(self) -> None:
        await asyncio.to_thread(self._secrets.open)

    async def close(self) -> None:
        await asyncio.to_thread(self._engine.close)

    async def background(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pool.run(), name="pool of sandboxes")
            group.create_task(self._nics.run(), name="NICs")

    async def _nics_changed(self) -> None:
        for node, why in (await self._plugs.reroute()).items():
            _log.warning("node %s could not follow a change of the host's NICs: %s", node, why)

    async def _vlans_in_use(self) -> frozenset[str] | None:
        claims = await in_thread(self._files.claims)
        if not set(await self.nodes()) <= {claim.node for claim in claims}:
            return None  # a node stands of which this agent knows nothing, and with it what it needs
        return frozenset(name for claim in claims for name in claim.vlans)

    @_for_people
    async def check(self, specs: Sequence[NodeSpec]) -> Sequence[str]:
        nics = await self._network.host_nics()
        if not self._live_restore:
            self._live_restore = bool((await self._engine.info()).get("LiveRestoreEnabled"))
        if not self._live_restore:
            return (_LIVE_RESTORE,)
        reasons = [reason for spec in specs for reason in await self._network.reasons(spec.attachment, nics)]
        reasons += [reason for spec in specs for reason in await asyncio.to_thread(self._secrets.reasons, spec.secrets)]
        wanted = dict.fromkeys((spec.image, spec.image_id) for spec in specs)
        found = await together(*(self._image_reason(image, image_id) for image, image_id in wanted))
        return tuple(dict.fromkeys([*(reason for reason in found if reason), *reasons]))

    async def _image_reason(self, reference: str, image_id: str | None) -> str | None:
        if image_id is not None and await self._engine.image(image_id) is not None:
            return None
        image = await self._engine.image(reference)
        if image is None:
            try:
                await self._engine.pull(reference)
            except EngineError as error:
                return f"image {reference} is not on this host, and: {error}; load it with: docker load -i FILE"
            image = await self._engine.image(reference)
        found = None if image is None else image["Id"]
        if image_id is not None and found != image_id:
            return (
                f"image {reference} is {found} on this host, but the plan resolved it to {image_id};"
                " load the same image on every host"
            )
        return None

    @_for_people
    async def start(self, spec: NodeSpec, tx: str) -> NodeFacts:
        claim = await asyncio.to_thread(self._files.claimed, spec.node)
        if claim is not None and claim.tx != tx:
            raise NodeHeld(
                f"the name belongs to transaction {claim.tx}, which is not finished on this host;"
                f" look at it with: odysseyctl tx show {claim.tx}"
            )
        if claim is not None:
            await self._containers.mend(spec, tx, None)
            return (await self.nodes())[spec.node]
        workload, sandbox = await self._containers.create(spec, tx)
        return NodeFacts("running", workload, sandbox, spec.image_id, tx)

    @_for_people
    async def keep(self, spec: NodeSpec, tx: str, phase: Phase) -> Sequence[str]:
        return await self._containers.mend(spec, tx, phase)

    @_for_people
    async def prefer(self, avoid: Sequence[str]) -> Mapping[str, str]:
        return await self._plugs.prefer(avoid)

    @_for_people
    async def tidy(self) -> None:
        await self._plugs.drop_vlans()

    @_for_people
    async def ended(self, node: str) -> str | None:
        workload = await self._containers.find(node)
        if workload is None:
            return "its container has gone"
        if workload.status in _RUNNING:
            return None
        why = f": {workload.error}" if workload.error else ""
        return f"it ended with exit code {workload.exit_code}{why}"

    @_for_people
    async def probe(self, spec: NodeSpec) -> Probe:
        if spec.health is None:
            how = await self.ended(spec.node)
            return Probe(how is None, how or "its process runs")
        sandbox = await self._containers.find(sandbox_name(spec.node))
        if sandbox is None or not sandbox.running:
            return Probe(False, f"{sandbox_name(spec.node)} does not run")

        async def run(command: tuple[str, ...], timeout: float) -> tuple[int | None, str]:
            try:
                result = await self._engine.execute(spec.node, command, timeout)
            except EngineError as error:
                return -1, str(error)
            return result.code, result.output

        with self._containers.open_namespace(sandbox) as namespace:
            return await probe(spec.health, spec.attachment.address, namespace, run)

    @_for_people
    async def discard(self, spec: NodeSpec, tx: str) -> None:
        await self._containers.discard(spec, tx)

    @_for_people
    async def stop(self, node: str) -> None:
        await self._containers.remove(node)
        self._listened.pop(node, None)

    @_for_people
    async def neighbours(self, spec: NodeSpec) -> None:
        if await asyncio.to_thread(self._files.claimed, spec.node) is None:
            raise NodeError(f"node {spec.node} is not on this host")
        newest = await in_thread(self._files.write_neighbours, spec.node, spec.neighbours)
        if not newest or spec.on_change is None:
            return
        if (how := await self.ended(spec.node)) is not None:
            raise NodeError(f"node {spec.node} was not told of its new neighbours: {how}; it reads them when it starts")
        command, limit = spec.on_change.command, spec.on_change.timeout
        result = await self._engine.execute(spec.node, command, limit)
        if result.code != 0:
            how = f"took longer than {limit:g} s" if result.code is None else f"ended with {result.code}"
            raise NodeError(f"onChange of node {spec.node} ({command[0]}) {how}: {result.output.strip()[-500:]}")

    @_for_people
    async def nodes(self) -> Mapping[str, NodeFacts]:
        listed = [Listed.parse(item) for item in await self._engine.containers(self._owner.filters())]
        sandboxes = {item.node: item for item in listed if item.role == SANDBOX}
        workloads = {item.node: item for item in listed if item.role == WORKLOAD}
        names = sorted(name for name in {*sandboxes, *workloads} if name is not None)
        return {name: _facts(workloads.get(name), sandboxes.get(name)) for name in names}

    @_for_people
    async def connections(self, node: str) -> Connections:
        sandbox = await self._containers.find(sandbox_name(node))
        if sandbox is None or not sandbox.running:
            return Connections()
        with self._containers.open_namespace(sandbox):
            # With the namespace open the process was the sandbox's; it holds the namespace as long as it lives.
            text = await asyncio.to_thread(_read_tables, sandbox.pid)
        found = count(text, self._listened.get(node, frozenset()))
        self._listened[node] = self._listened.get(node, frozenset()) | found.listening
        return found

    @_for_people
    async def logs(self, node: str, tail: int) -> str:
        workload = await self._containers.find(node)
        if workload is None:
            raise NodeError(f"node {node} is not on this host")
        return await self._engine.logs(workload.id, tail)

    @_for_people
    async def images(self, references: Sequence[str]) -> Mapping[str, str | None]:
        found = await together(*(self._engine.image(reference) for reference in references))
        return {
            reference: None if image is None else str(image["Id"])
            for reference, image in zip(references, found, strict=True)
        }

    @_for_people
    async def describe(self) -> HostFacts:
        info, images, nics = await together(self._engine.info(), self._engine.images(), self._nics.observe())
        engine = {"version": info["ServerVersion"], "liveRestore": bool(info.get("LiveRestoreEnabled"))}
        return HostFacts(images=images, pool=len(self._pool), engine=engine, nics=nics)

    def events(self) -> AsyncGenerator[NodeEvent, None]:
        return EventStream(self._engine, self._owner).events()


def _facts(workload: Listed | None, sandbox: Listed | None) -> NodeFacts:
    state: NodeState = "absent"
    if workload is not None:
        state = "running" if workload.status in _RUNNING else "exited"
    labels = next((one.labels for one in (workload, sandbox) if one is not None), {})
    return NodeFacts(
        state=state,
        container=workload.id if workload else None,
        sandbox=sandbox.id if sandbox else None,
        image_id=workload.image_id if workload else None,
        tx=labels.get(TX),
    )


def _read_tables(pid: int) -> str:
    tables = [Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6")]
    return "".join(path.read_text(encoding="ascii") for path in tables if path.exists())
