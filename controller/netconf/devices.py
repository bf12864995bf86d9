# SPDX-License-Identifier: AGPL-3.0-or-later
"""A switch as the event loop sees it: its session is made when it is needed, and lives in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from controller.netconf.alliedtelesis import AlliedTelesisDriver
from controller.netconf.device import DeviceConfig, Management
from controller.netconf.driver import DeviceDriver, Tuning
from controller.netconf.nexus import NexusDriver
from controller.netconf.session import NetconfError, SessionLostError
from controller.netconf.ssh import Connect

T = TypeVar("T")
Work = Callable[[DeviceDriver], T]
_log = logging.getLogger(__name__)

DRIVERS: dict[str, type[DeviceDriver]] = {"nexus9000": NexusDriver, "alliedtelesis": AlliedTelesisDriver}
"""The driver of each profile that is configured by NETCONF."""


def refusals(config: DeviceConfig) -> list[str]:
    """Why a device cannot be configured like this, as far as that can be told without asking it.  Pure."""
    return [*config.faults(), *DRIVERS[config.profile].model.refusals(config)]


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How often a lost session is tried again within one piece of work, and the first wait (s), which doubles."""

    attempts: int = 3
    wait: float = 0.5


class Device:
    """Runs work on one switch, one piece after the other, never in the event loop."""

    def __init__(self, name: str, connect: Connect, tuning: Tuning, reconnect: Reconnect) -> None:
        self.name = name
        self.problem: str | None = None
        """Why the last piece of work failed; None if it did not."""
        self.reachable: bool | None = None
        """Whether the last piece of work had a session to its end; None: there was none yet."""
        self.capabilities: tuple[str, ...] = ()
        """What the device told that it can, when a session last began."""
        self._connect = connect
        self._tuning = tuning
        self._reconnect = reconnect
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"netconf {name}")
        self._driver: DeviceDriver | None = None
        self._by: Management | None = None

    @property
    def held(self) -> bool:
        """Tell whether what was staged still stands."""
        return self._driver is not None and self._driver.held

    @property
    def connected(self) -> bool:
        """Tell whether there is a session."""
        return self._driver is not None and self._driver.session.connected

    async def run(self, config: DeviceConfig, work: Work[T]) -> T:
        """Do ``work`` with the driver; raises NetconfError, whatever fails.

        Cancelled, it goes on in its thread, and whatever comes next waits for it.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._work, config, work)

    async def release(self) -> None:
        """Give up what is staged, if there is a session that holds it."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._release)

    async def close(self) -> None:
        """End session and thread; what is staged goes with them."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self._close)
        self._pool.shutdown(wait=False)

    def _work(self, config: DeviceConfig, work: Work[T]) -> T:
        try:
            result = work(self._opened(config))
        except SessionLostError as error:
            self._close()
            self.problem, self.reachable = str(error), False
            raise
        except NetconfError as error:
            self.problem, self.reachable = str(error), self.connected
            raise
        except Exception as error:
            raise self._unexpected(error) from error
        self.problem, self.reachable = None, True
        return result

    def _unexpected(self, error: Exception) -> NetconfError:
        """One switch must not end the work on the others, so a defect of ours is a failure of this switch."""
        text = (
            f"odyssey-netconf failed with an error that it does not expect, {type(error).__name__}: {error}; "
            "it is a defect, and the log of odyssey-netconf tells where: report it"
        )
        if text != self.problem:  # it is tried again and again, and told once
            _log.error("%s: %s", self.name, text, exc_info=error)
        self.problem, self.reachable = text, self.connected
        self._close()  # what the device was told, and what comes next from it, is not known
        return NetconfError(text)

    def _opened(self, config: DeviceConfig) -> DeviceDriver:
        driver = self._driver
        if driver is not None and driver.session.connected and self._by == config.management:
            return driver
        self._close()
        wait = self._reconnect.wait
        for left in reversed(range(self._reconnect.attempts)):
            try:
                session = self._connect(config.management)
                break
            except SessionLostError:
                if not left:
                    raise
                time.sleep(wait)
                wait *= 2
        self.capabilities = session.known()
        self._driver = DRIVERS[config.profile](session, self._tuning)
        self._by = config.management
        return self._driver

    def _release(self) -> None:
        if self._driver is not None and self._driver.session.connected:
            try:
                self._driver.release()
            except NetconfError as error:
                _log.info("%s: %s", self.name, error)
                self._close()  # and the locks with it
            except Exception as error:
                self._unexpected(error)  # closes the session, and the locks go with it

    def _close(self) -> None:
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.session.close()
