# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files that must never be seen half written: keys and certificates."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

PRIVATE_FILE = 0o600
PUBLIC_FILE = 0o644
PRIVATE_DIRECTORY = 0o700


def make_private_directory(directory: Path) -> None:
    """Create `directory` (and its parents) with mode 0700; one that exists keeps its mode."""
    directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)


def write_together(directory: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Write `files` (name -> content, mode) into `directory`, each replaced by rename.

    All contents are on disk before the first rename, so a full disk changes nothing. What root writes belongs to whom
    the directory belongs: the daemons whose keys these are do not run as root. Raises OSError.
    """
    owner = directory.stat()
    waiting: list[tuple[Path, Path]] = []
    try:
        for name, (content, mode) in files.items():
            draft = directory / f".{name}.{secrets.token_hex(4)}"
            waiting.append((draft, directory / name))
            _write_draft(draft, content, mode, (owner.st_uid, owner.st_gid))
        for draft, final in waiting:
            draft.replace(final)
    except OSError:
        for draft, _ in waiting:
            draft.unlink(missing_ok=True)
        raise
    _sync_directory(directory)


def _write_draft(path: Path, content: bytes, mode: int, owner: tuple[int, int]) -> None:
    """Create `path` with `mode` from its first byte on, and flush it to disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        if os.geteuid() == 0:
            os.fchown(stream.fileno(), *owner)
        os.fchmod(stream.fileno(), mode)  # the umask may have taken bits away
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_directory(directory: Path) -> None:
    """Make the renames in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
