# SPDX-License-Identifier: AGPL-3.0-or-later
"""The few calls of the Docker Engine API that the lab needs, over the engine's Unix socket (API 1.41 and later)."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode

from odyssey.lab.shell import LabError

CALL_TIMEOUT = 60.0
"""Seconds without a byte after which a call is given up."""

BUILD_TIMEOUT = 300.0
"""The same for building, loading and saving images."""

CHUNK = 1 << 20


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class EngineApi:
    """One engine. All methods raise LabError with the engine's own words."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ping(self) -> bool:
        """Tell whether the engine answers. The socket's file says nothing: it may outlive its engine."""
        try:
            with self._request("GET", "/_ping", timeout=2.0) as response:
                return response.read() == b"OK"
        except LabError:
            return False

    def version(self) -> str:
        """The engine's version."""
        return str(self._json("GET", "/version")["Version"])

    def containers(self) -> list[dict[str, Any]]:
        """All containers, running or not."""
        found: list[dict[str, Any]] = self._json("GET", "/containers/json?all=1")
        return found

    def remove_container(self, identifier: str) -> None:
        """Kill and remove a container; nothing if it is not there."""
        with self._request("DELETE", f"/containers/{quote(identifier)}?force=1", accept=(404, 409)) as response:
            response.read()

    def remove_volumes(self) -> None:
        """Remove all volumes."""
        for volume in self._json("GET", "/volumes")["Volumes"] or []:
            with self._request("DELETE", f"/volumes/{quote(volume['Name'])}?force=1", accept=(404,)) as response:
                response.read()

    def image_id(self, reference: str) -> str | None:
        """The id of an image, or None if the engine does not have it."""
        with self._request("GET", f"/images/{quote(reference)}/json", accept=(404,)) as response:
            body = response.read()
            return None if response.status == 404 else str(json.loads(body)["Id"])

    def image_size(self, reference: str) -> int:
        """The bytes of an image's layers."""
        return int(self._json("GET", f"/images/{quote(reference)}/json")["Size"])

    def load(self, tar: Path) -> None:
        """Load what `docker save` wrote."""
        with tar.open("rb") as body:
            self._stream("POST", "/images/load?quiet=1", body, tar.stat().st_size)

    def save(self, references: tuple[str, ...], tar: Path) -> None:
        """Write images into one file, as `docker save` does; the file appears when it is complete."""
        part = tar.with_suffix(".part")
        query = urlencode([("names", reference) for reference in references])
        with self._request("GET", f"/images/get?{query}", timeout=BUILD_TIMEOUT) as response, part.open("wb") as target:
            while chunk := response.read(CHUNK):
                target.write(chunk)
        part.rename(tar)

    def import_rootfs(self, tar: Path, reference: str) -> None:
        """Make an image with one layer from the tar file of a file system."""
        name, _, tag = reference.rpartition(":")
        query = urlencode({"fromSrc": "-", "repo": name, "tag": tag})
        with tar.open("rb") as body:
            self._stream("POST", f"/images/create?{query}", body, tar.stat().st_size)

    def build(self, context: Path, reference: str, arguments: Mapping[str, str]) -> None:
        """Build an image from the tar file of a context that holds a Dockerfile, with no network.

        `arguments` are the values of the Dockerfile's ARG lines.
        """
        options = {"t": reference, "networkmode": "none", "rm": "1", "forcerm": "1"}
        query = urlencode({**options, "buildargs": json.dumps(arguments)})
        with context.open("rb") as body:
            self._stream("POST", f"/build?{query}", body, context.stat().st_size)

    def _stream(self, method: str, path: str, body: IO[bytes], size: int) -> None:
        """Send a file and read the engine's progress messages to their end."""
        headers = {"Content-Type": "application/x-tar", "Content-Length": str(size)}
        with self._request(method, path, body=body, headers=headers, timeout=BUILD_TIMEOUT) as response:
            said: list[str] = []
            for line in response:
                message = json.loads(line) if line.strip() else {}
                if "error" in message:
                    raise LabError(f"{self.path}: {method} {path}: {message['error']}\n{''.join(said[-20:])}".rstrip())
                said.append(str(message.get("stream", "")))

    def _json(self, method: str, path: str) -> Any:
        with self._request(method, path) as response:
            return json.loads(response.read())

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        *,
        body: IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = CALL_TIMEOUT,
        accept: tuple[int, ...] = (),
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _UnixConnection(self.path, timeout)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            if response.status >= 400 and response.status not in accept:
                said = response.read().decode(errors="replace").strip()
                raise LabError(f"{self.path}: {method} {path}: {response.status} {said}")
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"{self.path}: {method} {path}: {error or type(error).__name__}") from error
        finally:
            connection.close()
