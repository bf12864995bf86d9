# SPDX-License-Identifier: AGPL-3.0-or-later
"""Backups of whole running configurations: files of mode 0600, named by the time, in one folder for each switch.

Beside them stands which backup a switch was restored from, for as long as it is left so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from controller.netconf.session import NetconfError
from controller.netconf.tree import Element

NAME = "%Y%m%dT%H%M%S.%fZ"
RESTORED = "restored"


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """A time as text, in whole seconds."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup: its name, when it was taken (RFC 3339), its size, and whether it is the one that is never deleted."""

    name: str
    taken: str
    bytes: int
    first: bool


class Backups:
    """The first backup of a switch is never deleted; of the others the newest ``kept`` stay."""

    def __init__(self, folder: Path, kept: int, clock: Callable[[], datetime] = now) -> None:
        self._folder = folder
        self._kept = kept
        self._clock = clock
        marks = folder.glob(f"*/{RESTORED}")
        self.restored = {mark.parent.name: mark.read_text(encoding="utf-8") for mark in marks}
        """The backup that each switch was restored from, of those that are left so."""

    def keep(self, switch: str, text: str) -> str:
        """Write a backup and return its name; raises NetconfError."""
        name = f"{self._clock().strftime(NAME)}.xml"
        try:
            self._write(switch, name, text)
            for old in self.names(switch)[1 : -self._kept]:
                (self._folder / switch / old).unlink()
        except OSError as error:
            raise NetconfError(f"its configuration cannot be backed up: {error}") from error
        return name

    def mark(self, switch: str, backup: str | None) -> None:
        """Keep in mind that a switch was restored and is left so; None: it is as decided again.

        Raises NetconfError.
        """
        if backup == self.restored.get(switch):
            return
        try:
            self._mark(switch, backup)
        except OSError as error:
            raise NetconfError(f"it cannot be noted whether it is left as restored: {error}") from error

    def _mark(self, switch: str, backup: str | None) -> None:
        mark = self._folder / switch / RESTORED
        if backup is None:
            mark.unlink(missing_ok=True)
            del self.restored[switch]
            return
        new = mark.with_name(f"{RESTORED}.new")
        new.unlink(missing_ok=True)
        self._write(switch, new.name, backup)
        new.replace(mark)
        self.restored[switch] = backup

    def _write(self, switch: str, name: str, text: str) -> None:
        folder = self._folder / switch
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)

    def listed(self, switch: str) -> list[Backup]:
        """The backups of a switch, oldest first; raises OSError."""
        paths = [self._folder / switch / name for name in self.names(switch)]
        return [Backup(path.name, _taken(path), path.stat().st_size, first=path == paths[0]) for path in paths]

    def names(self, switch: str) -> list[str]:
        """The backups of a switch, oldest first."""
        return sorted(path.name for path in (self._folder / switch).glob("*.xml"))

    def read(self, switch: str, name: str) -> Element:
        """The ``<data>`` of a backup; raises NetconfError."""
        if name not in self.names(switch):
            known = ", ".join(self.names(switch)[-3:]) or "none"
            raise NetconfError(f"there is no backup {name!r} of {switch}; the newest: {known}", "not-found")
        try:
            return ElementTree.fromstring((self._folder / switch / name).read_bytes())
        except (OSError, ElementTree.ParseError) as error:
            raise NetconfError(f"backup {name} of {switch} cannot be read: {error}") from error


def _taken(path: Path) -> str:
    """The time in a backup's name; of a file that somebody else laid there, when it was written."""
    try:
        moment = datetime.strptime(path.stem, NAME).replace(tzinfo=UTC)
    except ValueError:
        moment = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return rfc3339(moment)
