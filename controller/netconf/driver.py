# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a driver does with one device over one session.  Every method blocks and raises NetconfError."""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from xml.etree import ElementTree

from controller.netconf.datamodel import DataModel, Target
from controller.netconf.session import RUNNING, STARTUP, LockedError, NetconfError, Session, SessionLostError
from controller.netconf.tree import Difference, Node, Path, Tree

_log = logging.getLogger(__name__)


class NotAppliedError(NetconfError):
    """The device said ok and does not hold what it was told."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Limits of a driver.

    ``confirm_seconds``: how long a device waits for the second commit.  A lock is asked for ``lock_attempts`` times
    with ``lock_wait_seconds`` between.  ``edit_bytes`` bounds one edit where a device takes no large ones.
    """

    confirm_seconds: int = 60
    lock_attempts: int = 3
    lock_wait_seconds: float = 1.0
    edit_bytes: int = 24_000


@dataclass(frozen=True, slots=True)
class Staged:
    """What was found when a change was staged: what the device held of ours, and what is to be done."""

    before: Tree
    change: Difference


class DeviceDriver(ABC):
    """Changes one device: ``stage``, ``apply``, then ``confirm`` or ``revert``; ``release`` at any time before.

    A driver lives as long as its session.  What it staged is held by the session's locks and goes with them.
    """

    model: DataModel

    def __init__(self, session: Session, tuning: Tuning) -> None:
        self.session = session
        self.tuning = tuning
        self.staged: Staged | None = None
        self._locks: list[str] = []

    @property
    def held(self) -> bool:
        """Tell whether what was staged still stands."""
        return self.staged is not None and self.session.connected

    def read(self, target: Target, source: str = RUNNING) -> dict[Path, Node]:
        """Return what the device holds of ours."""
        return self.model.read(self.session.get_config(source, self.model.filter(), defaults=True), target)

    def look(self, target: Target) -> Difference:
        """Return what is to be done."""
        return self.model.difference(self.read(target), target)

    def backup(self) -> str:
        """Return the whole running configuration as XML."""
        return ElementTree.tostring(self.session.get_config(RUNNING), encoding="unicode")

    @abstractmethod
    def stage(self, target: Target, before: Tree | None = None) -> Staged:
        """Check all that can be checked and hold what the device can hold; raises when it cannot be done.

        ``before`` is what the device goes back to if it is reverted; None: what it holds now.
        """

    @abstractmethod
    def apply(self, target: Target, token: str) -> bool:
        """Make it running, so that it can be taken back, and read it back; returns whether there was anything to do.

        When it raises, it was taken back.

        ``token`` names the change on devices that let another session confirm it.  After SessionLostError it is open
        whether anything was done, and ``settle`` of a new session finds out.
        """

    @abstractmethod
    def confirm(self, token: str) -> None:
        """Make it final."""

    @abstractmethod
    def revert(self, target: Target, token: str) -> None:
        """Take back what ``apply`` did."""

    @abstractmethod
    def settle(self, token: str) -> None:
        """Take back what an earlier session of the same change left unconfirmed."""

    def release(self) -> None:
        """Give up what is staged and held.  Locks that went with their session are no failure."""
        self.staged = None
        with contextlib.suppress(SessionLostError):
            while self._locks:
                self.session.unlock(self._locks[-1])
                self._locks.pop()
        self._locks.clear()

    def save(self) -> str | None:
        """Save to startup; returns why that is not possible, or None."""
        try:
            self.session.copy_config(RUNNING, STARTUP)
        except SessionLostError:
            raise
        except NetconfError as error:
            return f"running but not saved to startup, save it on the device's command line: {error}"
        return None

    def _lock(self, *stores: str) -> None:
        for store in stores:
            if store in self._locks:
                continue
            for left in reversed(range(self.tuning.lock_attempts)):
                try:
                    self.session.lock(store)
                except LockedError:
                    if not left:
                        raise
                    time.sleep(self.tuning.lock_wait_seconds)
                else:
                    break
            self._locks.append(store)

    def _back(self, target: Target) -> Difference:
        """Return what takes the device back to what was found when the change was staged."""
        return self.look(target.back_to(self.staged.before)) if self.staged is not None else Difference()


def problem(left: Difference) -> NotAppliedError:
    """The error for what a device did not take though it said ok."""
    lines = left.lines()
    more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
    return NotAppliedError(f"the device said ok and did not do it: {'; '.join(lines[:3])}{more}", "not-applied")
