# SPDX-License-Identifier: AGPL-3.0-or-later
"""The two containers of one node: made, found, mended and removed.

Nothing is removed that does not carry this cluster and this host, and that the caller does not name. What carries a
name of ours without being ours is told to people and left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from agents.docker.containers import (
    POOL_PREFIX,
    RESTART_COMMITTED,
    SANDBOX,
    TX,
    WORKLOAD,
    Container,
    Owner,
    Paths,
    Policy,
    sandbox_name,
    workload_config,
)
from agents.docker.engine import Engine, EngineError
from agents.docker.pool import Pool, Sandbox
from agents.driver import NodeError
from agents.files import Claim, NodeFiles
from agents.namespace import Namespace, NamespaceGone, in_thread
from agents.plugs import Plugs
from agents.secrets import Secrets
from agents.spec import NodeSpec, Phase

_ALIVE = ("running", "paused", "restarting")


class NodeContainers:
    """Works on the containers and files of nodes. Raises NodeError, EngineError, NetworkError, SecretError, OSError."""

    def __init__(
        self,
        engine: Engine,
        owner: Owner,
        pool: Pool,
        files: NodeFiles,
        secrets: Secrets,
        plugs: Plugs,
        policy: Policy,
        grace: float,
    ) -> None:
        """`grace` is the seconds between asking a workload to end and killing it."""
        self._engine = engine
        self._owner = owner
        self._pool = pool
        self._files = files
        self._secrets = secrets
        self._plugs = plugs
        self._policy = policy
        self._grace = grace

    async def find(self, name: str) -> Container | None:
        """Return a container of ours by name. Raises NodeError if it is somebody else's."""
        document = await self._engine.inspect(name)
        if document is None:
            return None
        found = Container.parse(document)
        if not self._owner.owns(found.labels):
            raise NodeError(_foreign(name, found))
        return found

    def open_namespace(self, container: Container | Sandbox) -> Namespace:
        """Open the network namespace of a running container. Raises NodeError."""
        try:
            return Namespace.of_container(container.pid, container.id)
        except NamespaceGone as error:
            raise NodeError(str(error)) from error

    async def create(self, spec: NodeSpec, tx: str) -> tuple[str, str]:
        """Make a new node; returns the ids of workload and sandbox. Raises NodeError if its name is in use."""
        self._pool.hold()
        try:
            reserved = self._pool.reserve()
            claim = Claim(spec.node, tx, reserved.id if reserved else None, spec.attachment.vlan_interfaces)
            try:
                paths, nics = await together(self._place(spec, claim), self._plugs.host_nics())
            except BaseException:
                if reserved is not None:
                    self._pool.give_back(reserved)
                raise
            sandbox = await self._get_sandbox(spec.node, tx, reserved)
            with self.open_namespace(sandbox) as namespace:
                workload, _ = await together(
                    self._create_workload(spec, tx, sandbox.id, paths),
                    self._plugs.attach(
                        spec.node,
                        spec.attachment,
                        spec.attachment.stands_up(None),
                        (sandbox.pid, sandbox.id),
                        namespace,
                        nics,
                    ),
                )
            await self._engine.start(workload)
            return workload, sandbox.id
        finally:
            self._pool.release()

    async def mend(self, spec: NodeSpec, tx: str, phase: Phase | None) -> list[str]:
        """Bring a node into order, touching only what is wrong; returns what was done, for people.

        With a `phase` it is committed: the engine restarts both containers by itself from now on.
        """
        actions: list[str] = []
        await in_thread(self._claim_and_write, spec, _claim(spec, tx))
        workload, sandbox = await together(self.find(spec.node), self.find(sandbox_name(spec.node)))
        if workload is not None and workload.tx != tx:
            raise await self._in_use(spec.node)
        sandbox = await self._mend_sandbox(spec.node, tx, sandbox, actions)
        with self.open_namespace(sandbox) as namespace:
            if workload is not None:
                workload = await self._leave_other_network(workload, sandbox, namespace, actions)
            up, holder = spec.attachment.stands_up(phase), (sandbox.pid, sandbox.id)
            actions += await self._plugs.mend(spec.node, spec.attachment, up, holder, namespace)
        workload = await self._mend_workload(spec, tx, workload, sandbox, actions)
        if phase is not None:
            both = [one.id for one in (workload, sandbox) if one.restart_policy != RESTART_COMMITTED]
            await together(*(self._engine.set_restart(identity, RESTART_COMMITTED) for identity in both))
        return actions

    async def _mend_sandbox(self, node: str, tx: str, found: Container | None, actions: list[str]) -> Container:
        if found is not None and found.running:
            return found
        if found is None:
            await self._get_sandbox(node, tx, None)
            actions.append(f"made the {SANDBOX}")
        else:
            await self._engine.start(found.id)
            actions.append(f"started the {SANDBOX}, which was {found.status}")
        found = await self.find(sandbox_name(node))
        if found is None or not found.running:
            why = "it has gone" if found is None else found.error or f"it is {found.status}"
            raise NodeError(f"{sandbox_name(node)} does not run: {why}")
        return found

    async def _mend_workload(
        self, spec: NodeSpec, tx: str, found: Container | None, sandbox: Container, actions: list[str]
    ) -> Container:
        if found is not None and found.status in _ALIVE:
            return found
        paths = await self._place(spec, _claim(spec, tx))
        if found is None:
            await self._create_workload(spec, tx, sandbox.id, paths)
            actions.append(f"made the {WORKLOAD}")
        else:
            actions.append(f"started the {WORKLOAD}, which was {found.status} ({found.exit_code})")
        await self._engine.start(spec.node)
        found = await self.find(spec.node)
        if found is None:
            raise NodeError(f"container {spec.node} has gone while it was being started")
        return found

    async def discard(self, spec: NodeSpec, tx: str) -> None:
        """Remove what an aborted transaction made of a node; what another transaction made stays."""
        node = spec.node
        claim = await asyncio.to_thread(self._files.claimed, node)
        workload, sandbox = await together(self._ours(node), self._ours(sandbox_name(node)))
        unclaimed = claim is None and (workload is None or workload.tx == tx)
        taken = claim.sandbox if claim is not None and claim.tx == tx else None
        if sandbox is None and taken is not None and self._pool.withdraw(taken):
            # Reserved in an earlier run and not renamed; a rename that was under way must not come true later.
            reserved = await self._ours(taken)
            sandbox = reserved if reserved is not None and reserved.name.startswith(POOL_PREFIX) else None
        mine = [one for one in (workload, sandbox) if one is not None and (one.tx == tx or one.id == taken)]
        await self._unplug(node, next((one for one in mine if one is sandbox), None))
        await together(*(self._engine.remove(one.id) for one in mine))
        if spec.volume is not None:
            await self._remove_volume(spec.volume.name, tx)
        # Without a claim the folder was left by a crash before the claim was written, or after it was removed.
        if unclaimed or (claim is not None and claim.tx == tx):
            await self._forget(node)

    async def remove(self, node: str) -> None:
        """Stop and remove a node whose removal is decided; what is not ours is not the node."""
        workload, sandbox = await together(self._ours(node), self._ours(sandbox_name(node)))
        if workload is not None:
            if workload.status in _ALIVE:
                await self._engine.stop(workload.id, self._grace)
            await self._engine.remove(workload.id)
        if sandbox is not None:
            await self._unplug(node, sandbox)
            await self._engine.remove(sandbox.id)
        await self._forget(node)

    async def _unplug(self, node: str, sandbox: Container | None) -> None:
        """Take the NICs out of a sandbox that is about to be removed; one that does not run has none to take."""
        if sandbox is None or sandbox.status not in _ALIVE:
            return
        try:
            namespace = Namespace.of_container(sandbox.pid, sandbox.id)
        except NamespaceGone:
            return  # it ended in this moment
        with namespace:
            await self._plugs.detach(node, namespace)

    async def _remove_volume(self, name: str, tx: str) -> None:
        volume = await self._engine.volume(name)
        labels = (volume or {}).get("Labels") or {}
        if self._owner.owns(labels) and labels.get(TX) == tx:
            await self._engine.remove_volume(name)

    async def _ours(self, name: str) -> Container | None:
        document = await self._engine.inspect(name)
        found = None if document is None else Container.parse(document)
        return found if found is not None and self._owner.owns(found.labels) else None

    def _claim_and_write(self, spec: NodeSpec, claim: Claim) -> None:
        """Write the node's files; the claim comes first, so that whatever follows can be traced to its transaction."""
        standing = self._files.claimed(spec.node)
        if standing is None or standing.tx != claim.tx:
            self._files.claim(claim)
        self._files.write(spec)

    async def _place(self, spec: NodeSpec, claim: Claim) -> Paths:
        """Write everything that a workload needs to start."""

        def place() -> Paths:
            self._claim_and_write(spec, claim)
            return Paths(
                run=self._files.run_folder(spec.node),
                hosts=self._files.hosts_file(spec.node),
                resolv=self._files.resolv_file(spec.node),
                secrets=self._secrets.place(spec.node, spec.secrets) if spec.secrets else {},
            )

        return await in_thread(place)

    async def _forget(self, node: str) -> None:
        def forget() -> Claim | None:
            claim = self._files.claimed(node)
            self._secrets.remove(node)
            self._files.remove(node)
            return claim

        claim = await in_thread(forget)
        self._plugs.forget(node)
        if claim is not None and claim.vlans:
            await self._plugs.drop_vlans()

    async def _get_sandbox(self, node: str, tx: str, reserved: Sandbox | None) -> Sandbox:
        try:
            if reserved is not None:
                try:
                    return await self._pool.name(reserved, node)
                except EngineError as error:
                    if not error.missing:
                        raise
            return await self._pool.make(node, tx)
        except EngineError as error:
            if error.conflict:
                raise await self._in_use(sandbox_name(node)) from error
            raise

    async def _create_workload(self, spec: NodeSpec, tx: str, sandbox: str, paths: Paths) -> str:
        labels = self._owner.labels(WORKLOAD, spec.node, tx)
        config = workload_config(spec, spec.image_id or spec.image, sandbox, labels, paths, self._policy)
        try:
            return await self._engine.create(spec.node, config)
        except EngineError as error:
            if error.conflict:
                raise await self._in_use(spec.node) from error
            raise

    async def _in_use(self, name: str) -> NodeError:
        """Explain who has a container name that a new node needs."""
        found = await self._ours(name)
        if found is None:
            return NodeError(f"the container name {name} is in use by a container that is not of Odyssey; remove it")
        return NodeError(
            f"container {name} ({found.id[:12]}) of transaction {found.tx or 'unknown'} stands already and nothing that"
            f" this agent knows explains it; look at it and remove it with: docker rm -f {name}"
        )

    async def _leave_other_network(
        self, workload: Container, sandbox: Container, namespace: Namespace, actions: list[str]
    ) -> Container | None:
        """Stop or remove a workload that lives in another network namespace than its sandbox.

        Its old NICs hold the node's MAC address, so it must go before the new ones come.
        """
        if workload.network_mode != f"container:{sandbox.id}":
            await self._engine.stop(workload.id, self._grace)
            await self._engine.remove(workload.id)
            actions.append("removed the workload, which belonged to another sandbox")
            return None
        if not workload.running:
            return workload
        with self.open_namespace(workload) as its:
            if its.inode == namespace.inode:
                return workload
        await self._engine.stop(workload.id, self._grace)
        actions.append("stopped the workload, which was in another network namespace")
        return await self.find(workload.name)


async def together(*work: Awaitable[Any]) -> tuple[Any, ...]:
    """Run all at once, wait until every one has ended, and raise the first error or return all results."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return tuple(results)


def _claim(spec: NodeSpec, tx: str) -> Claim:
    return Claim(spec.node, tx, vlans=spec.attachment.vlan_interfaces)


def _foreign(name: str, found: Container) -> str:
    return (
        f"the container name {name} is in use by container {found.id[:12]}, which is not of this cluster and host;"
        f" remove or rename it"
    )
