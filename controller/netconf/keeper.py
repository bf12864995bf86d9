# SPDX-License-Identifier: AGPL-3.0-or-later
"""Keeps switches as decided when nobody asks: holds open changes after lost sessions, finds and mends drift."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from controller.netconf.changes import CommitError
from controller.netconf.datamodel import Target
from controller.netconf.device import DeviceConfig
from controller.netconf.driver import DeviceDriver, problem
from controller.netconf.session import NetconfError

if TYPE_CHECKING:
    from controller.netconf.participant import NetconfParticipant

Publish = Callable[[str, Mapping[str, Any]], None]
_log = logging.getLogger(__name__)
MENDING = "odyssey-mend"  # the name of a change that no transaction makes
MAX_LINES = 200  # of a difference in an answer or event


class Keeper:
    """What happens between transactions, and what an operator asks for outside of them."""

    def __init__(self, participant: NetconfParticipant, publish: Publish) -> None:
        self.drift: dict[str, list[str]] = {}
        """What each switch holds that was not decided, as it was last seen."""
        self._participant = participant
        self._publish = publish
        self._left: set[str] = set()
        self._told: dict[str, str] = {}

    def resume(self, switch: str) -> None:
        """A transaction configured the switch: it is kept so again, also after a restore."""
        self._left.discard(switch)
        self.drift.pop(switch, None)

    async def keep(self, hold_seconds: float, verify_seconds: float, *, mend: bool) -> None:
        """Run until cancelled: look after open changes every ``hold_seconds``, after drift every ``verify_seconds``."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            for change in list(self._participant.open.values()):
                await self._hold(change.id)
            if clock() >= due:
                await self.verify(mend=mend)
                due = clock() + verify_seconds
            await asyncio.sleep(hold_seconds)

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
                await self._verify(switch, mend=mend and switch not in self._left)

    async def _verify(self, switch: str, *, mend: bool) -> None:
        try:
            lines = await self.look(switch)
            if lines != self.drift.get(switch, []):
                self.drift[switch] = lines
                if lines:
                    self._publish("netconf.drift", {"switch": switch, "changes": lines[:MAX_LINES]})
            if lines and mend and self._participant.busy(switch) is None:
                await self._carry_out(switch, self._target(switch))
                self.drift[switch] = []
                self._publish("netconf.mended", {"switch": switch, "changes": lines[:MAX_LINES]})
            self._tell(switch, None)
        except NetconfError as error:
            self._tell(switch, str(error), "netconf.failed", {"switch": switch, "reason": str(error)})

    async def look(self, switch: str) -> list[str]:
        """What would have to be done to a switch to make it what was decided; raises NetconfError."""
        target = self._target(switch)
        device = self._participant.device(switch)
        return (await device.run(target.config, lambda driver: driver.look(target))).lines()

    async def restore(self, switch: str, backup: str) -> list[str]:
        """Make what is ours of a switch what a backup says, and leave it so until the next transaction configures it.

        Returns what was changed; raises NetconfError.
        """
        data = await asyncio.to_thread(self._participant.backups.read, switch, backup)
        target = self._target(switch)
        self._left.add(switch)

        def back(driver: DeviceDriver) -> Target:
            return target.back_to(driver.model.read(data, target))

        try:
            lines = await self._carry_out(switch, back)
        except NetconfError:
            self._left.discard(switch)
            raise
        self._publish("netconf.restored", {"switch": switch, "backup": backup, "changes": lines[:MAX_LINES]})
        return lines

    async def _carry_out(self, switch: str, target: Target | Callable[[DeviceDriver], Target]) -> list[str]:
        """Configure one switch outside of transactions, in one piece of work that nothing comes in between of."""

        def work(driver: DeviceDriver) -> list[str]:
            if (tx := self._participant.busy(switch)) is not None:
                raise NetconfError(f"{switch} is held by the open transaction {tx}", "in-use")
            wanted = target if isinstance(target, Target) else target(driver)
            driver.settle(MENDING)
            staged = driver.stage(wanted)
            if staged.change:
                self._participant.backups.keep(switch, driver.backup())
                driver.apply(wanted, MENDING)
            driver.confirm(MENDING)
            if left := driver.look(wanted):
                raise problem(left)
            if staged.change and (why := driver.save()) is not None:
                _log.warning("%s: %s", switch, why)
            return staged.change.lines()

        config = self._target(switch).config
        return await self._participant.device(switch).run(config, work)

    def _target(self, switch: str) -> Target:
        return Target.of(None, DeviceConfig.parse(self._participant.decided[switch]))

    def _tell(self, about: str, reason: str | None, topic: str = "", data: Mapping[str, Any] | None = None) -> None:
        """Publish a failure once, until it has another reason or is over."""
        if reason is None:
            self._told.pop(about, None)
        elif self._told.get(about) != reason:
            self._told[about] = reason
            _log.warning("%s: %s", about, reason)
            self._publish(topic, data or {})
