# SPDX-License-Identifier: AGPL-3.0-or-later
"""Secrets of nodes: copied from the agent's own folder to a tmpfs, from where containers get them as read-only files.

A value is never in a message, a label, an environment, a log line or an error.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

SIZE_LIMIT = 64 * 1024  # bytes of one secret
TMPFS_SIZE = "16m"  # of all secrets of a host together
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8  # sys/mount.h
_libc = ctypes.CDLL(None, use_errno=True)


class SecretError(Exception):
    """A secret cannot be given to a node; the text says what to do."""


class Secrets:
    """Copies secrets from `source` (one file each, mode 0600) to `target`, which is or becomes a tmpfs."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source = source
        self._target = target

    def open(self) -> None:
        """Make sure that the target is in memory; mounts a tmpfs there if it is not. Raises SecretError."""
        self._target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if filesystem(self._target, Path("/proc/self/mountinfo").read_text(encoding="utf-8")) == "tmpfs":
            return
        # noswap (Linux 6.4) keeps secrets off the swap device; older kernels do not know it.
        for options in (f"size={TMPFS_SIZE},mode=0700,noswap", f"size={TMPFS_SIZE},mode=0700"):
            flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
            if _libc.mount(b"odyssey-secrets", os.fsencode(self._target), b"tmpfs", flags, options.encode()) == 0:
                return
        number = ctypes.get_errno()
        raise SecretError(
            f"cannot mount a tmpfs on {self._target}: {os.strerror(number)}; secrets must not touch a disk,"
            " so set run_dir to a folder on a tmpfs, such as /run/odyssey"
        )

    def reasons(self, names: Mapping[str, str]) -> tuple[str, ...]:
        """Tell for each secret why it cannot be read."""
        reasons = []
        for name in names:
            try:
                self._read(name)
            except SecretError as error:
                reasons.append(str(error))
        return tuple(reasons)

    def place(self, node: str, names: Mapping[str, str]) -> dict[str, Path]:
        """Copy the secrets of a node; returns the copies by their path in the container. Raises SecretError, OSError.

        A copy that is right already stays as it is, because containers hold it bound.
        """
        folder = self._target / node
        copies = {}
        for name, inside in names.items():
            value = self._read(name)
            folder.mkdir(mode=0o700, exist_ok=True)
            copy = folder / name
            if not copy.exists() or copy.read_bytes() != value:
                beside = folder / f".{name}.new"
                with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                    file.write(value)
                    # The folder is closed to all on the host; in the container its user is not known here.
                    os.fchmod(file.fileno(), 0o444)
                os.replace(beside, copy)
            copies[inside] = copy
        return copies

    def remove(self, node: str) -> None:
        """Forget the copies of a node."""
        folder = self._target / node
        if folder.exists():
            shutil.rmtree(folder)

    def _read(self, name: str) -> bytes:
        path = self._source / name
        try:
            # Not following links, and not waiting for the writer of a pipe.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise SecretError(
                f"secret {name}: {path} is missing; write the value there with: install -m 0600 FILE {path}"
            ) from error
        except OSError as error:
            raise SecretError(f"secret {name}: cannot open {path}: {error.strerror}") from error
        try:
            if reason := _unfit(os.fstat(descriptor)):
                raise SecretError(f"secret {name}: {path} {reason.format(path=path)}")
            value = os.read(descriptor, SIZE_LIMIT + 1)
        finally:
            os.close(descriptor)
        if len(value) > SIZE_LIMIT:
            raise SecretError(f"secret {name}: {path} is larger than {SIZE_LIMIT} bytes")
        return value


def _unfit(status: os.stat_result) -> str | None:
    """Tell why a file cannot hold a secret."""
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if stat.S_IMODE(status.st_mode) & 0o077:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}; run: chmod 0600 {{path}}"
    if status.st_uid != os.geteuid():
        return f"belongs to another user; run: chown {os.geteuid()} {{path}}"
    return None


def filesystem(path: Path, mountinfo: str) -> str:
    """Return the type of the filesystem of `path`; `mountinfo` is /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    best, kind = -1, ""
    real = path.resolve()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].replace("\\040", " ")
        # Of mounts on one point the last one lies on top.
        if real.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), after.split(" ")[0]
    return kind
