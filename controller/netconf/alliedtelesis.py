# SPDX-License-Identifier: AGPL-3.0-or-later
"""The driver of AlliedWare Plus, which has the running configuration only (alliedtelesis/apteryx-netconf).

Its server knows get, get-config, edit-config, lock, unlock and the two ways to end a session; it does not look at
test-option and error-option, prunes what an edit removes before it checks the rest, and takes requests below 32 KiB.
"""

from __future__ import annotations

import logging

from controller.netconf.alliedtelesis_model import AlliedTelesisModel
from controller.netconf.datamodel import Target
from controller.netconf.driver import DeviceDriver, Staged, problem
from controller.netconf.session import RUNNING, NetconfError, SessionLostError
from controller.netconf.tree import Difference, Tree, pieces, render

_log = logging.getLogger(__name__)
ONE_UNIT = 1  # bytes: every part of a difference goes by itself


class AlliedTelesisDriver(DeviceDriver):
    """Nothing can be staged on the device: the edit is computed and checked, and the lock is held while it is sent.

    While it is locked, the device answers nobody else, not even who only reads.
    """

    model = AlliedTelesisModel()

    def stage(self, target: Target, before: Tree | None = None) -> Staged:
        self.release()
        have = self.read(target)
        change = self.model.difference(have, target)
        if change:
            # Somebody who holds the lock now is found before the vote.
            self._lock(RUNNING)
            super().release()
        self.staged = Staged(have if before is None else before, change)
        return self.staged

    def apply(self, target: Target, token: str) -> bool:
        del token  # there is no commit that another session could confirm
        staged = self.staged if self.staged is not None else self.stage(target)
        if not staged.change:
            return False
        self._lock(RUNNING)
        try:
            self._send(self.look(target), self.tuning.edit_bytes)
            if left := self.look(target):
                _log.warning("%s said ok and did not do all of it; once more, in single parts", self.session)
                self._send(left, ONE_UNIT)
                if left := self.look(target):
                    raise problem(left)
        except SessionLostError:
            raise
        except NetconfError:
            self.revert(target, "")
            raise
        return True

    def confirm(self, token: str) -> None:
        self.release()

    def revert(self, target: Target, token: str) -> None:
        if self._locks:
            self._send(self._back(target), self.tuning.edit_bytes)
            if self._back(target):
                raise NetconfError(f"{self.session} does not take the change back", "not-applied")
        self.release()

    def settle(self, token: str) -> None:
        """There is nothing that a device could confirm or forget: what an earlier session sent is running."""

    def save(self) -> str | None:
        if not self.session.can(":startup"):
            return "running but not saved to startup: this device has no way to save over NETCONF; type write memory"
        return super().save()

    def _send(self, change: Difference, limit: int) -> None:
        on_error = "rollback-on-error" if self.session.can(":rollback-on-error") else None
        test = "test-then-set" if self.session.can(":validate") else None
        for part in pieces(change, self.model.shape, limit, self.model.rank):
            self.session.edit_config(RUNNING, render(part, self.model.shape), test=test, on_error=on_error)
