# SPDX-License-Identifier: AGPL-3.0-or-later
"""Keeps switches as decided when nobody asks: holds open changes after lost sessions, finds and mends drift."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from controller.netconf.backups import now, rfc3339
from controller.netconf.changes import CommitError
from controller.netconf.datamodel import Target
from controller.netconf.device import DeviceConfig
from controller.netconf.driver import DeviceDriver, problem
from controller.netconf.session import NetconfError, SessionLostError
from controller.netconf.tree import Difference

if TYPE_CHECKING:
    from controller.netconf.participant import NetconfParticipant

T = TypeVar("T")
Publish = Callable[[str, Mapping[str, Any]], None]
Told = Callable[[str], None]
"""Hears each step of a change, in the thread of the switch."""
Choose = Callable[[DeviceDriver, Target], Target]
"""Makes what a switch shall become from what was decided."""
STEPS = ("compare", "back up", "change and read back", "confirm and read back", "save")
"""The steps that ``Told`` hears; of a change that finds nothing to do the first and the fourth."""
_log = logging.getLogger(__name__)
AWAY = "away"  # a switch that is away refuses, times out and has no route in turn: one failure
MENDING = "odyssey-mend"  # the name of a change that no transaction makes
MAX_LINES = 200  # of a difference in an answer or event


@dataclass(frozen=True, slots=True)
class Done:
    """What was changed on a switch, in what it is now apart from what was decided, and why it is not saved to startup
    (None: it is).
    """

    change: Difference
    apart: Difference
    unsaved: str | None = None

    def lines(self, limit: int) -> list[str]:
        """The first lines of what was changed."""
        return self.change.lines()[:limit]


class Keeper:
    """What happens between transactions, and what an operator asks for outside of them."""

    def __init__(self, participant: NetconfParticipant, publish: Publish) -> None:
        self.drift: dict[str, list[str]] = {}
        """What each switch holds that was not decided, as it was last seen."""
        self.verified: dict[str, str] = {}
        """When each switch was last compared with what was decided (RFC 3339)."""
        self._participant = participant
        self._publish = publish
        self._told: dict[str, str] = {}

    def resume(self, switch: str) -> None:
        """A transaction configured the switch: it is kept so again, also after a restore."""
        self._participant.backups.mark(switch, None)
        self.drift.pop(switch, None)
        self.verified[switch] = rfc3339(now())

    def unfinished(self, tx: str, reason: str | None) -> None:
        """Tell why a decided transaction cannot be carried out; None: it is."""
        self._tell(f"commit of {tx}", reason, "netconf.unfinished", {"tx": tx, "reason": reason})

    async def keep(self, hold_seconds: float, verify_seconds: float, *, mend: bool) -> None:
        """Run until cancelled: look after open changes every ``hold_seconds``, after drift every ``verify_seconds``.

        Beside each other, because a switch that is away takes its time, and votes are to be held meanwhile.
        """
        tasks = [
            asyncio.create_task(self._keep_held(hold_seconds), name="hold open changes"),
            asyncio.create_task(self._keep_verified(verify_seconds, mend=mend), name="verify switches"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_held(self, seconds: float) -> None:
        while True:
            for change in list(self._participant.open.values()):
                await self._hold(change.id)
            await asyncio.sleep(seconds)

    async def _keep_verified(self, seconds: float, *, mend: bool) -> None:
        while True:
            await self.verify(mend=mend)
            await asyncio.sleep(seconds)

    async def _hold(self, tx: str) -> None:
        """Hold again what a lost session lost; whoever commits does the same and waits for this."""
        change = self._participant.open.get(tx)
        # Before prepare has ended there is nothing to hold again, and prepare itself fails.
        if change is None or change.before.keys() != change.targets.keys():
            return
        if all(self._participant.device(switch).held for switch in change.targets):
            self._tell(f"tx {tx}", None)
            return
        try:
            await self._participant.hold(change)
        except CommitError as error:
            self._tell(f"tx {tx}", str(error), "netconf.unheld", {"tx": tx, "reason": str(error)})

    async def verify(self, *, mend: bool) -> None:
        """Compare every switch that no transaction configures with what was decided."""
        for switch in list(self._participant.decided):
            if self._participant.busy(switch) is None:
                await self._verify(switch, mend=mend)

    async def _verify(self, switch: str, *, mend: bool) -> None:
        try:
            if await self.compare(switch) and mend and self._may_mend(switch):
                await self._mend(switch)
            self._tell(switch, None)
        except NetconfError as error:
            if switch in self._participant.decided:  # it may have left meanwhile
                kind = AWAY if isinstance(error, SessionLostError) else None
                self._tell(switch, str(error), "netconf.failed", {"switch": switch, "reason": str(error)}, kind)

    async def compare(self, switch: str, backup: str | None = None) -> Difference:
        """What would have to be done to a switch to make it what was decided, or what is ours of it what a backup says.

        Changes nothing; raises NetconfError.
        """
        choose = await self._chosen(switch, backup)

        def look(driver: DeviceDriver) -> Difference:
            return driver.look(choose(driver, self._target(switch)))

        try:
            found = await self._run(switch, look)
        except SessionLostError as error:
            if error.tag != "lost":
                raise
            # A session kept from before may have ended unnoticed, by an idle timeout of the device or its restart.
            found = await self._run(switch, look)
        if backup is None and self._participant.busy(switch) is None:
            self._note(switch, found)
        return found

    def _note(self, switch: str, found: Difference) -> None:
        """Keep what a switch was last seen to differ in, and tell it where that is new."""
        self.verified[switch] = rfc3339(now())
        lines = found.lines()
        if lines != self.drift.get(switch, []):
            self.drift[switch] = lines
            if lines:
                self._publish("netconf.drift", {"switch": switch, "changes": lines[:MAX_LINES]})

    async def restore(self, switch: str, backup: str, told: Told) -> Done:
        """Make what is ours of a switch what a backup says, and leave it so until the next transaction configures it.

        Raises NetconfError.
        """
        choose = await self._chosen(switch, backup)
        done = await self._run(switch, lambda driver: self._carry_out(driver, switch, choose, told, backup))
        self._publish("netconf.restored", {"switch": switch, "backup": backup, "changes": done.lines(MAX_LINES)})
        self._note(switch, done.apart)
        return done

    async def mend(self, switch: str, told: Told) -> Done:
        """Make a switch what was decided, and keep it so again after a restore; raises NetconfError."""
        done = await self._run(switch, lambda driver: self._carry_out(driver, switch, _as_decided, told))
        self._mended(switch, done)
        return done

    async def _mend(self, switch: str) -> None:
        def work(driver: DeviceDriver) -> Done | None:
            # Somebody may have begun a transaction, or restored the switch, before this is done.
            return self._carry_out(driver, switch, _as_decided, _unheard) if self._may_mend(switch) else None

        if (done := await self._run(switch, work)) is not None:
            self._mended(switch, done)

    def _mended(self, switch: str, done: Done) -> None:
        self.drift[switch] = []
        self.verified[switch] = rfc3339(now())
        if done.change:
            self._publish("netconf.mended", {"switch": switch, "changes": done.lines(MAX_LINES)})

    def _may_mend(self, switch: str) -> bool:
        return self._participant.busy(switch) is None and switch not in self._participant.backups.restored

    async def _chosen(self, switch: str, backup: str | None) -> Choose:
        """How the target follows from what was decided."""
        if backup is None:
            return _as_decided
        data = await asyncio.to_thread(self._participant.backups.read, switch, backup)
        return lambda driver, target: target.back_to(driver.model.read(data, target))

    def _carry_out(
        self, driver: DeviceDriver, switch: str, choose: Choose, told: Told, backup: str | None = None
    ) -> Done:
        """Configure one switch outside of transactions, in one piece of work that nothing comes in between of.

        It ends also where nobody waits for it any more, so what follows from it is kept here.
        """
        if (tx := self._participant.busy(switch)) is not None:
            raise NetconfError(f"{switch} is held by the open transaction {tx}", "in-use")
        wanted = choose(driver, self._target(switch))
        told("compare")
        driver.settle(MENDING)
        staged = driver.stage(wanted)
        try:
            if staged.change:
                told("back up")
                self._participant.backups.keep(switch, driver.backup())
                told("change and read back")
                driver.apply(wanted, MENDING)
        except NetconfError:
            driver.release()
            raise
        told("confirm and read back")
        driver.confirm(MENDING)
        if left := driver.look(wanted):
            raise problem(left)
        why = None
        if staged.change:
            told("save")
            why = driver.save()
        apart = driver.look(self._target(switch)) if backup is not None else Difference()
        self._participant.backups.mark(switch, backup if apart else None)
        if why is not None:
            _log.warning("%s: %s", switch, why)
        return Done(staged.change, apart, why)

    async def _run(self, switch: str, work: Callable[[DeviceDriver], T]) -> T:
        config = self._target(switch).config  # first, so that no device is made for a switch that has left
        return await self._participant.device(switch).run(config, work)

    def _target(self, switch: str) -> Target:
        """What was decided; raises NetconfError if the switch has left meanwhile."""
        document = self._participant.decided.get(switch)
        if document is None:
            raise NetconfError(f"{switch} is no longer configured by NETCONF", "not-found")
        return Target.of(None, DeviceConfig.parse(document))

    def _tell(
        self,
        about: str,
        reason: str | None,
        topic: str = "",
        data: Mapping[str, Any] | None = None,
        kind: str | None = None,
    ) -> None:
        """Publish a failure once, until it is over or has another reason; those of one ``kind`` count as the same."""
        if reason is None:
            self._told.pop(about, None)
        elif self._told.get(about) != (kind or reason):
            self._told[about] = kind or reason
            _log.warning("%s: %s", about, reason)
            self._publish(topic, data or {})


def _as_decided(_driver: DeviceDriver, target: Target) -> Target:
    return target


def _unheard(_step: str) -> None:
    """Nobody watches a change that nobody asked for."""
