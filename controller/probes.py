# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs probes that somebody asked for: checks the question, refuses what would meet traffic, reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from controller.channel import ChannelError
from controller.connection import SwitchConnection
from controller.ledger import Ledger
from controller.probe import Finding, Probe, inventory_lines
from controller.probe_plan import Plan, ProbeRefused, make_plan, touched
from controller.switches import Switches
from rdmp.rpc import RpcError

_log = logging.getLogger(__name__)
Json = Mapping[str, Any]
Progress = Callable[[Json], Awaitable[None]]

DEFAULT_CAPACITY = 1000
MAX_CAPACITY = 1_000_000
#: How long the ports of a switch that should carry nothing are watched, and how much noise there may be.
WATCH_SECONDS = 1.0
QUIET_PACKETS = 20


class Probes:
    """One probe at a time: a probe of two switches at once could not tell whose packets it sees."""

    def __init__(self, ledger: Callable[[], Ledger], switches: Switches) -> None:
        self._ledger = ledger
        self._switches = switches
        self._running: str | None = None

    async def run(self, params: Json, progress: Progress) -> Json:
        """Probe ``switch`` (``capacity``, ``vlan``, ``force``); raises RpcError."""
        name, capacity, vlan, force = self._question(params)
        connection = self._switches.connection(name)
        if connection is None:
            raise RpcError("not_found", f"switch {name} is not connected")
        if self._running is not None:
            raise RpcError("busy", f"switch {self._running} is being probed; wait until that is done")
        self._running = name
        try:
            plan = await self._plan(connection, vlan, force)
            profile = self._ledger().compilation.profile(name)
            findings = await Probe(connection, plan, profile.capabilities, capacity, progress).run()
        except ProbeRefused as error:
            raise RpcError("refused", str(error)) from error
        except ChannelError as error:
            raise RpcError("failed", f"the probe did not end: {error}") from error
        finally:
            self._running = None
        _log.info("switch %s was probed: %s", name, ", ".join(f"{one.capability} {one.found}" for one in findings))
        return self._answer(name, profile.name, plan, findings)

    def _question(self, params: Json) -> tuple[str, int, int | None, bool]:
        name, vlan, capacity = params.get("switch"), params.get("vlan"), params.get("capacity", DEFAULT_CAPACITY)
        known = self._ledger().compilation.tables
        if not isinstance(name, str) or name not in known:
            there = ", ".join(known) or "none"
            raise RpcError("not_found", f"switch {name} is not in the inventory; there are: {there}")
        if isinstance(capacity, bool) or not isinstance(capacity, int) or not 0 <= capacity <= MAX_CAPACITY:
            raise RpcError("invalid", f"$.capacity: found {capacity!r}, must be 0 to {MAX_CAPACITY}")
        if vlan is not None and (isinstance(vlan, bool) or not isinstance(vlan, int) or not 1 < vlan < 4095):
            raise RpcError("invalid", f"$.vlan: found {vlan!r}, must be 2 to 4094")
        return name, capacity, vlan, params.get("force") is True

    async def _plan(self, connection: SwitchConnection, vlan: int | None, force: bool) -> Plan:
        intent = self._ledger().compilation.intent
        states = await connection.channel.read_ports()
        plan = make_plan(intent, connection.name, (one.number for one in states if one.up), vlan)
        if not force:
            await self._refuse_traffic(connection, plan)
        return plan

    async def _refuse_traffic(self, connection: SwitchConnection, plan: Plan) -> None:
        """Refuse a switch that is in use; one in maintenance may be probed once it carries nothing."""
        intent = self._ledger().compilation.intent
        assert intent.inventory is not None
        port = f"port {plan.port}" if plan.port is not None else "no port"
        touches = (
            f"the probe adds entries above all others for VLAN {plan.vlan}, sends test frames of that VLAN through "
            f"{port}, and holds changes up while it looks; say so (--yes), or take the switch out of use first "
            f"(odysseyctl switch maintenance)"
        )
        maintained = intent.inventory.switches[connection.name].maintenance
        if not maintained and (users := touched(intent, connection.name)):
            raise ProbeRefused(f"{connection.name} carries traffic of {', '.join(users)}: {touches}")
        before = await self._packets(connection)
        await asyncio.sleep(WATCH_SECONDS)
        moved = await self._packets(connection) - before
        if moved > QUIET_PACKETS:
            raise ProbeRefused(f"{connection.name} passed {moved} packets in {WATCH_SECONDS:g} s: {touches}")

    @staticmethod
    async def _packets(connection: SwitchConnection) -> int:
        return sum(one.rx_packets + one.tx_packets for one in await connection.channel.read_port_counters())

    @staticmethod
    def _answer(name: str, profile: str, plan: Plan, findings: list[Finding]) -> Json:
        return {
            "switch": name,
            "profile": profile,
            "vlan": plan.vlan,
            "port": plan.port,
            "findings": [one.to_json() for one in findings],
            "inventory": inventory_lines(findings),
        }
