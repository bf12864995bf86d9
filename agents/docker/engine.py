# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Docker engine for asyncio: docker-py's low-level client behind bounded thread pools.

A call that has begun is always waited for, also when its caller is cancelled: nothing happens on the host behind the
caller's back. Each call ends by the HTTP timeout of the client.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import docker
import docker.auth
import docker.errors
import docker.utils
import requests

from agents.namespace import finished

T = TypeVar("T")
LOG_LIMIT = 256 * 1024  # bytes of log that one call returns
EXEC_OUTPUT_LIMIT = 64 * 1024  # bytes of a command's output that are kept
EXEC_POLL = 0.2  # seconds of silence after which a command's state is asked for
EXEC_PAUSE = 0.01  # seconds between two looks at a command that has closed its output


class EngineError(Exception):
    """The engine refused or failed; `status` is its HTTP status where it gave one."""

    def __init__(self, message: str, status: int | None = None, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.unreachable = unreachable

    @property
    def missing(self) -> bool:
        """Whether the object that the call named is not there."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Whether the name is in use or the object is in another state."""
        return self.status == 409


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds of the work with one engine; times are in seconds."""

    calls: int = 8
    commands: int = 8
    timeout: float = 30.0
    pull_timeout: float = 300.0


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A command that ran in a container; `code` is None when it was ended for taking too long."""

    code: int | None
    output: str


class Engine:
    """One Docker engine. All methods but `open` and `close` raise EngineError."""

    def __init__(self, url: str, limits: EngineLimits | None = None) -> None:
        self.url = url
        self.limits = limits or EngineLimits()
        self._client: Any = None
        self._connecting = threading.Lock()
        self._calls = ThreadPoolExecutor(self.limits.calls, "docker")
        self._commands = ThreadPoolExecutor(self.limits.commands, "docker-exec")

    def close(self) -> None:
        """End the threads, once their calls have ended, and the connections."""
        self._calls.shutdown(wait=True)
        self._commands.shutdown(wait=True)
        if self._client is not None:
            self._client.close()

    def new_client(self) -> Any:
        """Return a client of its own, for a thread that keeps a stream open. Blocks; raises EngineError."""
        connections = self.limits.calls + self.limits.commands
        return _translated(
            lambda: docker.APIClient(
                base_url=self.url, version="auto", timeout=self.limits.timeout, max_pool_size=connections
            ),
            f"connect to the Docker engine at {self.url}",
        )

    async def run(self, what: str, call: Callable[[Any], T]) -> T:
        """Run `call` with the client in a thread. `what` names the action in errors, such as `start shop-app-1`."""
        return await self._in(self._calls, what, call)

    async def _in(self, pool: ThreadPoolExecutor, what: str, call: Callable[[Any], T]) -> T:
        loop = asyncio.get_running_loop()
        return await finished(loop.run_in_executor(pool, lambda: _translated(lambda: call(self._connected()), what)))

    def _connected(self) -> Any:
        with self._connecting:
            if self._client is None:
                self._client = self.new_client()
            return self._client

    async def info(self) -> Mapping[str, Any]:
        """Return the engine's information document."""
        result: Mapping[str, Any] = await self.run("ask for the engine's settings", lambda client: client.info())
        return result

    async def inspect(self, container: str) -> Mapping[str, Any] | None:
        """Return a container by name or id, None if there is none."""
        return await self._found(f"inspect container {container}", lambda client: client.inspect_container(container))

    async def _found(self, what: str, call: Callable[[Any], Mapping[str, Any]]) -> Mapping[str, Any] | None:
        try:
            return await self.run(what, call)
        except EngineError as error:
            if error.missing:
                return None
            raise

    async def containers(self, labels: Iterable[str]) -> Sequence[Mapping[str, Any]]:
        """Return all containers, running or not, that carry every one of the labels (`key=value`)."""
        wanted = {"label": list(labels)}
        found: Sequence[Mapping[str, Any]] = await self.run(
            "list containers", lambda client: client.containers(all=True, filters=wanted)
        )
        return found

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a container from an API document and return its id."""
        body = dict(config)
        created: Mapping[str, Any] = await self.run(
            f"create container {name}", lambda client: client.create_container_from_config(body, name)
        )
        return str(created["Id"])

    async def start(self, container: str) -> None:
        """Start a container; one that runs stays as it is."""
        await self.run(f"start container {container}", lambda client: client.start(container))

    async def restart(self, container: str, grace: float) -> None:
        """Stop a container with SIGTERM and `grace` seconds, and start it."""
        seconds = max(0, round(grace))
        await self.run(f"restart container {container}", lambda client: client.restart(container, timeout=seconds))

    async def stop(self, container: str, grace: float) -> None:
        """Stop a container with its stop signal, SIGKILL after `grace` seconds; a missing one is stopped."""
        seconds = max(0, round(grace))
        await self._if_there(f"stop container {container}", lambda client: client.stop(container, timeout=seconds))

    async def remove(self, container: str) -> None:
        """Kill and remove a container and its anonymous volumes; a missing one is removed."""
        await self._if_there(
            f"remove container {container}", lambda client: client.remove_container(container, v=True, force=True)
        )

    async def _if_there(self, what: str, call: Callable[[Any], object]) -> None:
        try:
            await self.run(what, call)
        except EngineError as error:
            # 409 on a removal: another removal of it is under way, which is what was asked for.
            if not error.missing and "is already in progress" not in str(error):
                raise

    async def rename(self, container: str, name: str) -> None:
        """Give a container another name; `conflict` if it is in use."""
        await self.run(f"rename container {container[:12]} to {name}", lambda client: client.rename(container, name))

    async def set_restart(self, container: str, policy: str) -> None:
        """Set the restart policy: `no` or `unless-stopped`."""
        await self.run(
            f"set the restart policy of container {container}",
            lambda client: client.update_container(container, restart_policy={"Name": policy}),
        )

    async def logs(self, container: str, tail: int) -> str:
        """Return the last `tail` lines of a container's output, at most LOG_LIMIT bytes."""
        text: bytes = await self.run(
            f"read the log of container {container}", lambda client: client.logs(container, tail=tail)
        )
        return text[-LOG_LIMIT:].decode("utf-8", "replace")

    async def image(self, reference: str) -> Mapping[str, Any] | None:
        """Return a local image, None if there is none."""
        return await self._found(f"inspect image {reference}", lambda client: client.inspect_image(reference))

    async def images(self) -> Mapping[str, str]:
        """Return the ids of all local images by reference."""
        listed: Sequence[Mapping[str, Any]] = await self.run("list images", lambda client: client.images())
        return {tag: str(item["Id"]) for item in listed for tag in item.get("RepoTags") or () if tag != "<none>:<none>"}

    async def pull(self, reference: str) -> None:
        """Pull an image; it may take `pull_timeout` seconds."""
        limit = self.limits.pull_timeout
        await self.run(f"pull image {reference}", lambda client: _pull(client, reference, limit))

    async def import_image(self, archive: bytes, repository: str, tag: str, changes: Sequence[str]) -> None:
        """Make an image of a tar archive; `changes` are Dockerfile lines."""
        await self.run(
            f"import image {repository}:{tag}",
            lambda client: client.import_image_from_data(archive, repository, tag, changes=list(changes)),
        )

    async def volume(self, name: str) -> Mapping[str, Any] | None:
        """Return a volume, None if there is none."""
        return await self._found(f"inspect volume {name}", lambda client: client.inspect_volume(name))

    async def remove_volume(self, name: str) -> None:
        """Remove a volume; a missing one is removed."""
        await self._if_there(f"remove volume {name}", lambda client: client.remove_volume(name))

    async def execute(
        self, container: str, command: Sequence[str], timeout: float, environment: Mapping[str, str] | None = None
    ) -> CommandResult:
        """Run a command in a container; after `timeout` seconds it is killed."""
        variables = [f"{key}={value}" for key, value in (environment or {}).items()]
        return await self._in(
            self._commands,
            f"run {command[0]} in container {container}",
            lambda client: _execute(client, container, command, variables, timeout),
        )


def _pull(client: Any, reference: str, limit: float) -> None:
    """Pull with a time limit: docker-py's own `pull` waits for ever for a registry that says nothing."""
    repository, tag = docker.utils.parse_repository_tag(reference)
    registry, _ = docker.auth.resolve_repository_name(repository)
    header = docker.auth.get_config_header(client, registry)
    end = time.monotonic() + limit
    with client.post(
        f"{client.base_url}/v{client.api_version}/images/create",
        params={"fromImage": repository, "tag": tag or "latest"},
        headers={"X-Registry-Auth": header} if header else {},
        stream=True,
        timeout=limit,
    ) as response:
        if not response.ok:
            raise EngineError(f"cannot pull image {reference}: {_message(response)}", response.status_code)
        for line in response.iter_lines():
            told = json.loads(line) if line else {}
            if "error" in told:
                raise EngineError(f"cannot pull image {reference}: {told['error']}")
            if time.monotonic() > end:
                raise EngineError(f"cannot pull image {reference}: it took longer than {limit:g} s")


def _message(response: requests.Response) -> str:
    """Return the text of an error answer of the engine, which is `{"message": ...}` or plain."""
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text.strip()


def _execute(
    client: Any, container: str, command: Sequence[str], variables: Sequence[str], timeout: float
) -> CommandResult:
    end = time.monotonic() + timeout
    identity = client.exec_create(container, list(command), environment=list(variables))["Id"]
    stream = client.exec_start(identity, socket=True)
    try:
        raw, state = _read_command(client, identity, stream, end)
    finally:
        stream.close()
    output = demultiplexed(bytes(raw)).decode("utf-8", "replace")
    if state["Running"]:
        _kill_process(int(state["Pid"]), str(state["ContainerID"]))
        return CommandResult(None, output)
    return CommandResult(state["ExitCode"], output)


def _read_command(client: Any, identity: str, stream: Any, end: float) -> tuple[bytearray, Mapping[str, Any]]:
    """Read what a command prints until it ends or the time is over; return that and its state.

    The stream may outlive the command, when a child of it keeps the output open; so the state is asked for as well.
    """
    raw = bytearray()
    open_ = True
    while True:
        left = end - time.monotonic()
        if open_ and left > 0 and select.select([stream], [], [], min(left, EXEC_POLL))[0]:
            part = stream.read(EXEC_OUTPUT_LIMIT)
            open_ = bool(part)
            raw += (part or b"")[: EXEC_OUTPUT_LIMIT - len(raw)]
            continue
        state: Mapping[str, Any] = client.exec_inspect(identity)
        if not state["Running"] or left <= 0:
            return raw, state
        if not open_:
            time.sleep(EXEC_PAUSE)


def demultiplexed(raw: bytes) -> bytes:
    """Take the payload out of Docker's attach stream: frames of an 8 byte header, which ends with the length."""
    payload = b""
    while len(raw) >= 8:
        length = int.from_bytes(raw[4:8], "big")
        payload += raw[8 : 8 + length]
        raw = raw[8 + length :]
    return payload


def _kill_process(pid: int, container: str) -> None:
    """Kill a process of a container; the descriptor (pidfd_open(2)) keeps its number from being another's by then."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with open(f"/proc/{pid}/cgroup", encoding="ascii") as file:
            if container in file.read():
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        return
    finally:
        os.close(descriptor)


def _translated(call: Callable[[], T], what: str) -> T:
    """Run a call of docker-py and turn its errors into EngineError."""
    try:
        return call()
    except docker.errors.APIError as error:
        raise EngineError(f"cannot {what}: {error.explanation or error}", error.status_code) from error
    except requests.exceptions.Timeout as error:
        raise EngineError(f"cannot {what}: the engine did not answer in time", unreachable=True) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EngineError(f"cannot {what}: {error}", unreachable=True) from error
