# SPDX-License-Identifier: AGPL-3.0-or-later
"""The driver of the Nexus 9000: candidate, confirmed commit, read back, confirming commit."""

from __future__ import annotations

import contextlib
import logging

from controller.netconf.datamodel import Target
from controller.netconf.driver import DeviceDriver, Staged, Tuning, problem
from controller.netconf.nexus_model import NexusModel
from controller.netconf.session import CANDIDATE, RUNNING, NetconfError, Session, SessionLostError
from controller.netconf.tree import Difference, Element, Tree, canonical, local, render

_log = logging.getLogger(__name__)


class NexusDriver(DeviceDriver):
    """A staged change is in the candidate, tested by the device, under the locks of candidate and running."""

    model = NexusModel()

    def __init__(self, session: Session, tuning: Tuning) -> None:
        super().__init__(session, tuning)
        self._unconfirmed = False
        self._filled = False  # the candidate holds our edits

    def stage(self, target: Target, before: Tree | None = None) -> Staged:
        self.release()
        have = self.read(target)
        change = self.model.difference(have, target)
        if change:
            try:
                self._lock(RUNNING, CANDIDATE)
                self._no_foreign_edits()
                have = self.read(target)
                change = self.model.difference(have, target)
                self._fill(target, change)
            except NetconfError:
                self.release()
                raise
        self.staged = Staged(have if before is None else before, change)
        return self.staged

    def apply(self, target: Target, token: str) -> bool:
        staged = self.staged if self.held and self.staged is not None else self.stage(target)
        if not staged.change:
            return False
        try:
            self._commit(token)
            if self.look(target):
                # Seen: a commit that answers ok and does nothing (yuma123, after <validate>).  A new edit helps there.
                _log.warning("%s said ok to a commit and changed nothing; once more", self.session)
                self._cancel(token)
                self.session.discard_changes()
                self._fill(target, staged.change)
                self._commit(token)
                if left := self.look(target):
                    raise problem(left)
        except SessionLostError:
            raise
        except NetconfError:
            self.revert(target, token)
            raise
        return True

    def confirm(self, token: str) -> None:
        try:
            if self._unconfirmed:
                self.session.commit(persist_id=token if self._persists() else None)
        finally:  # a device that refuses has reverted: its time ran out
            self._unconfirmed = False
            self.release()

    def revert(self, target: Target, token: str) -> None:
        if self.staged is not None and self._locks:
            self._cancel(token)
            self.session.discard_changes()
            if back := self._back(target):
                self.session.edit_config(CANDIDATE, render(back, self.model.shape))
                self.session.commit()
                if self._back(target):
                    raise NetconfError(f"{self.session} does not take the change back", "not-applied")
        self.release()

    def settle(self, token: str) -> None:
        if self._persists():
            with contextlib.suppress(NetconfError):  # there is none: the usual case
                self.session.cancel_commit(persist_id=token)

    def release(self) -> None:
        if self._filled and self.session.connected:
            with contextlib.suppress(SessionLostError):
                self.session.discard_changes()
        self._filled = False
        super().release()

    def _persists(self) -> bool:
        return self.session.can(":confirmed-commit:1.1")

    def _commit(self, token: str) -> None:
        # A device that holds a lock of ours on running cannot revert by itself (seen with yuma123).  While a commit is
        # not confirmed nobody else gets that lock (RFC 6241, section 7.5), and the candidate stays locked.
        if RUNNING in self._locks:
            self.session.unlock(RUNNING)
            self._locks.remove(RUNNING)
        if self._persists():
            self.session.commit(timeout=self.tuning.confirm_seconds, persist=token)
        elif self.session.can(":confirmed-commit"):
            self.session.commit(timeout=self.tuning.confirm_seconds)
        else:
            self.session.commit()
            return
        self._unconfirmed = True

    def _cancel(self, token: str) -> None:
        if not self._unconfirmed:
            return
        self._unconfirmed = False
        try:
            self.session.cancel_commit(persist_id=token if self._persists() else None)
        except SessionLostError:
            raise
        except NetconfError as error:
            _log.info("%s: nothing to cancel: %s", self.session, error)  # its time ran out, or it never began

    def _no_foreign_edits(self) -> None:
        """Refuse a candidate that holds what somebody else has not committed: a commit would carry it out."""
        running, candidate = self.session.get_config(RUNNING), self.session.get_config(CANDIDATE)
        if canonical(running) != canonical(candidate):
            where = ", ".join(_apart(running, candidate)) or "in their order"
            raise NetconfError(
                f"the candidate of {self.session} holds edits that are not ours ({where}): commit or discard them",
                "in-use",
            )

    def _fill(self, target: Target, change: Difference) -> None:
        self._filled = True
        self.session.edit_config(
            CANDIDATE,
            render(change, self.model.shape),
            test="test-then-set" if self.session.can(":validate") else None,
            on_error="rollback-on-error" if self.session.can(":rollback-on-error") else None,
        )
        if left := self.model.difference(self.read(target, CANDIDATE), target):
            raise problem(left)


def _apart(one: Element, other: Element, path: str = "") -> list[str]:
    """The deepest paths of elements in which two configurations differ, for people; at most three."""
    here, there = ({canonical(child): child for child in element} for element in (one, other))
    mine = {child.tag: child for text, child in here.items() if text not in there}
    theirs = {child.tag: child for text, child in there.items() if text not in here}
    found: list[str] = []
    for tag in sorted(mine.keys() | theirs.keys()):
        deeper = f"{path}/{local(tag)}"
        if tag in mine and tag in theirs and (len(mine[tag]) or len(theirs[tag])):
            found += _apart(mine[tag], theirs[tag], deeper)
        else:
            found.append(deeper)
    return found[:3]
