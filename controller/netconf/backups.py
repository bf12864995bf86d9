# SPDX-License-Identifier: AGPL-3.0-or-later
"""Backups of whole running configurations: files of mode 0600, named by the time, in one folder for each switch."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from controller.netconf.session import NetconfError
from controller.netconf.tree import Element

FORMAT = "%Y%m%dT%H%M%S.%fZ"


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class Backups:
    """The first backup of a switch is never deleted; of the others the newest ``kept`` stay."""

    def __init__(self, folder: Path, kept: int, clock: Callable[[], datetime] = now) -> None:
        self._folder = folder
        self._kept = kept
        self._clock = clock

    def keep(self, switch: str, text: str) -> str:
        """Write a backup and return its name; raises OSError."""
        folder = self._folder / switch
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{self._clock().strftime(FORMAT)}.xml"
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        for old in self.names(switch)[1 : -self._kept]:
            (folder / old).unlink()
        return name

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
