# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whether this controller leads, and under which generation: kept in a file, for a restart with no orchestrator there.

A generation is the ``generation_id`` of OpenFlow's role request.  The orchestrator appoints one leader under a
generation that only rises; whoever knows of a higher one than that of its own appointment leads no more.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

#: RDMP's integers are below 2^53; so is every generation that can be appointed.
MAX_GENERATION = 2**53 - 1
_NEVER_SET = 2**64 - 1  # what a switch tells that never heard a generation


class TenureError(Exception):
    """The file cannot be read: where it is, and what to do."""


@dataclass(frozen=True, slots=True)
class Appointment:
    """The highest generation that is known here, and whether it is that of our own appointment."""

    generation: int = 0
    leads: bool = False


class Tenure:
    """The appointment of this controller, durable before it is obeyed."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one.  Raises TenureError."""
        self._path = path
        self._now = _read(path)
        self._writing = asyncio.Lock()

    def leads(self) -> bool:
        """Tell whether this controller leads."""
        return self._now.leads

    @property
    def generation(self) -> int:
        """The highest generation that is known."""
        return self._now.generation

    async def lead(self, generation: int) -> bool:
        """Begin to lead; False if a higher generation is known.  Raises OSError."""
        return await self._appointed(Appointment(generation, leads=True))

    async def follow(self, generation: int) -> bool:
        """Let another one lead; False if a higher generation is known.  Raises OSError."""
        return await self._appointed(Appointment(generation, leads=False))

    async def resign(self) -> None:
        """Lead no more until the next appointment.  Raises OSError."""
        await self._become(Appointment(self._now.generation, leads=False))

    async def superseded(self, generation: int) -> None:
        """A switch knows ``generation``: who leads under a lower one leads no more, at once.  Raises OSError."""
        if generation == _NEVER_SET or generation <= self._now.generation:
            return
        self._now = Appointment(generation)
        await self._become(self._now)

    async def _appointed(self, new: Appointment) -> bool:
        if new.generation < self._now.generation:
            return False
        await self._become(new)
        return True

    async def _become(self, new: Appointment) -> None:
        """Store, then obey; of several at once the highest generation stays, and of equal ones the last."""
        async with self._writing:
            if new.generation < self._now.generation:
                return
            await asyncio.to_thread(_write, self._path, new)
            if new.generation >= self._now.generation:
                self._now = new


def _read(path: Path) -> Appointment:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return Appointment(int(value["generation"]), bool(value["leads"]))
    except FileNotFoundError:
        return Appointment()
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = f"{path} cannot be read ({error}); remove it, and this controller follows until it is appointed"
        raise TenureError(text) from error


def _write(path: Path, appointment: Appointment) -> None:
    draft = path.with_name(f".{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(appointment), file)
        file.flush()
        os.fsync(descriptor)
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
