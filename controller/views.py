# SPDX-License-Identifier: AGPL-3.0-or-later
"""Questions about the fabric as it is now: paths, states, differences, capacity, counters.  They change nothing."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from controller.cabling import FAULTS
from controller.capacity import capacity_report
from controller.channel import ChannelError
from controller.compiler import Compilation
from controller.connection import Look
from controller.counters import counters_json
from controller.differences import differences
from controller.discovery import Discovery
from controller.ends import UnknownEnd, both_ends
from controller.fabric import Port, Service
from controller.ledger import Ledger
from controller.metrics import Snapshot
from controller.path import SwitchView, View, declared_services, explain
from controller.ports import PortCounters, attached, port_json
from controller.report import fabric_report
from controller.switches import Switches
from rdmp.rpc import RpcError

Json = Mapping[str, Any]
#: Differences that one answer names; the rest is counted, so that it stays below RDMP's message size.
MAX_DIFFERENCES = 2000
#: The same for nodes with their counters.
MAX_COUNTED_NODES = 10_000
#: The longest time over which the load of ports is measured.
MAX_INTERVAL = 10.0
#: How old the counters of an answer may be: several who ask at once cost the switches one reading.
COUNTERS_SECONDS = 2.0
PROTOCOLS = ("tcp", "udp")
ANY_PORT = 1  # tried where no port is named and none is declared


class Views:
    """Answers them from the ledger, from what the switches told, and by reading the switches."""

    def __init__(self, ledger: Callable[[], Ledger], switches: Switches, discovery: Discovery) -> None:
        self._ledger = ledger
        self._switches = switches
        self._discovery = discovery
        self._counted: dict[str, float] = {}
        self._counting = asyncio.Lock()

    # Paths

    async def path(self, params: Json) -> Json:
        """Follow a connection from ``from`` to ``to`` (``port``, ``protocol``) through what the switches hold now."""
        compilation = self._with_inventory()
        try:
            source, target = both_ends(compilation.intent, _text(params, "from"), _text(params, "to"))
        except UnknownEnd as error:
            raise RpcError("not_found", str(error)) from error
        declared = declared_services(compilation, source, target)
        service, chosen = _service(params, declared)
        read: dict[str, Look | None] = {}
        while True:
            answer, seen = explain(self._view(compilation, read), source, target, service)
            unread = [name for name in sorted(seen) if name not in read]
            if not unread:
                break
            read |= dict(zip(unread, await asyncio.gather(*map(self._look, unread)), strict=True))
        answer["declared"] = [{"protocol": one.protocol, "port": one.port} for one in declared]
        answer["notes"] += chosen + [
            f"{name} could not be read: its entries are those that it should hold" for name in seen if not read[name]
        ]
        return answer

    def _view(self, compilation: Compilation, read: Mapping[str, Look | None]) -> View:
        held = {}
        for name, tables in compilation.tables.items():
            look = read.get(name)
            held[name] = SwitchView(tables) if look is None else SwitchView(look.tables, look.counted)
        states = {name: self._switches.ports.states(name) or {} for name in compilation.tables}
        return View(compilation, held, states, self._switches.ports.down())

    async def _look(self, switch: str) -> Look | None:
        connection = self._switches.connection(switch)
        if connection is None:
            return None
        try:
            return await connection.look()
        except ChannelError:
            return None  # it is just being lost; the answer says so

    def _with_inventory(self) -> Compilation:
        compilation = self._switches.target
        if compilation.intent.inventory is None:
            raise RpcError("not_found", "there is no inventory yet (odysseyctl inventory apply FILE)")
        return compilation

    # States

    async def fabric(self, params: Json) -> Json:
        """Return the whole fabric; with ``interval`` (seconds) also the load of every port over that time."""
        interval = params.get("interval", 0)
        if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 <= interval <= MAX_INTERVAL:
            raise RpcError("invalid", f"$.interval: found {interval!r}, must be 0 to {MAX_INTERVAL:g} seconds")
        before: Mapping[str, Mapping[int, PortCounters]] = {}
        after = before
        names = [name for name in self._ledger().compilation.tables if self._switches.connection(name) is not None]
        if interval:
            before = await self._port_counters(names)
            await asyncio.sleep(interval)
            after = await self._port_counters(names)
        return {**self._report(names, before, after), "seconds": interval}

    def _report(
        self,
        names: Iterable[str],
        before: Mapping[str, Mapping[int, PortCounters]],
        after: Mapping[str, Mapping[int, PortCounters]],
    ) -> dict[str, Any]:
        ports = self._switches.ports
        counters = {name: (before.get(name, {}), after.get(name, {})) for name in names}
        states = {name: found for name in counters if (found := ports.states(name)) is not None}
        compilation = self._ledger().compilation
        cables = self._discovery.cables({}, {}, ports.down())
        wrong = {one.at: one.text for one in cables if one.state in FAULTS and isinstance(one.at, Port)}
        return fabric_report(compilation, self._switches.report(), states, wrong, counters)

    async def _port_counters(self, names: Iterable[str]) -> dict[str, Mapping[int, PortCounters]]:
        async def read(name: str) -> Mapping[int, PortCounters]:
            connection = self._switches.connection(name)
            if connection is None:
                return {}
            try:
                return {one.number: one for one in await connection.channel.read_port_counters()}
            except ChannelError:
                return {}  # its loads are unknown; whether it is connected stands in the same answer

        wanted = list(names)
        return dict(zip(wanted, await asyncio.gather(*map(read, wanted)), strict=True))

    async def switch_ports(self, params: Json) -> Json:
        """Return the ports of a switch that the inventory names, read now, with states and counters, by number."""
        compilation, name = self._with_inventory(), _text(params, "switch")
        connection = self._switches.connection(name)
        if connection is None:
            raise RpcError("not_found", _absent(name, compilation))
        try:
            states = {one.number: one for one in await connection.channel.read_ports()}
            counters = {one.number: one for one in await connection.channel.read_port_counters()}
        except ChannelError as error:
            raise RpcError("failed", str(error)) from error
        assert compilation.intent.inventory is not None
        hangs = attached(compilation.intent.inventory, name)
        ports = {
            str(number): {"attached": what.to_json(), **port_json(states.get(number), counters.get(number))}
            for number, what in hangs.items()
        }
        return {"switch": name, "ports": ports}

    # Comparisons

    async def verify(self, params: Json) -> Json:
        """Read every switch, or one, and compare it with what it should hold."""
        compilation, only = self._ledger().compilation, params.get("switch")
        names = sorted(compilation.tables)
        if only is not None:
            if only not in names:
                raise RpcError("not_found", _absent(str(only), compilation))
            names = [only]
        looks = await asyncio.gather(*map(self._compared, names))
        switches = dict(zip(names, looks, strict=True))
        left = MAX_DIFFERENCES
        for found in looks:
            found["truncated"] = max(0, len(found["differences"]) - left)
            found["differences"] = found["differences"][:left]
            left -= len(found["differences"])
        return {"equal": all(found["equal"] for found in looks), "switches": switches}

    async def _compared(self, name: str) -> dict[str, Any]:
        connection = self._switches.connection(name)
        unread: dict[str, Any] = {"equal": False, "entries": None, "foreign": None, "differences": []}
        if connection is None:
            return {"connected": False, "reason": f"switch {name} is not connected", **unread}
        try:
            look = await connection.look()
        except ChannelError as error:
            return {"connected": True, "reason": str(error), **unread}
        found = differences(name, look.tables, self._switches.target)
        return {
            "connected": True,
            "reason": None,
            "equal": not found,
            "entries": len(look.tables.entries),
            "foreign": look.foreign,
            "differences": found,
        }

    async def capacity(self, _params: Json) -> Json:
        """Return how full every switch is, and how many more nodes fit."""
        # Dozens of trials are compiled, of a large intent for a second each: heartbeats do not wait for that.
        return await asyncio.to_thread(capacity_report, self._ledger())

    # Counters

    async def counters(self, _params: Json) -> Json:
        """Return what nodes, dependencies, networks, borders and ports have counted; of very many nodes the first."""
        found = await self._counters()
        nodes = found["nodes"]
        if len(nodes) > MAX_COUNTED_NODES:
            found["nodes"] = dict(itertools.islice(nodes.items(), MAX_COUNTED_NODES))
        return {**found, "truncated": max(0, len(nodes) - MAX_COUNTED_NODES)}

    async def _counters(self) -> dict[str, Any]:
        await self.refresh()
        return counters_json(self._switches.tally, self._ledger().compilation)

    async def snapshot(self) -> Snapshot:
        """Return what metrics are made of."""
        names = [name for name in self._ledger().compilation.tables if self._switches.connection(name) is not None]
        counted = await self._counters()
        return Snapshot(counted, self._report(names, {}, await self._port_counters(names)))

    async def refresh(self) -> None:
        """Read the counters of every switch whose last reading is too old."""
        async with self._counting:
            names = self._ledger().compilation.tables
            now = time.monotonic()
            old = [name for name in names if now - self._counted.get(name, -COUNTERS_SECONDS) >= COUNTERS_SECONDS]
            self._counted |= dict.fromkeys(old, now)
            await asyncio.gather(*map(self._look, old))


def _absent(name: str, compilation: Compilation) -> str:
    if name in compilation.tables:
        return f"switch {name} is not connected"
    return f"switch {name} is not in the inventory; there are: {', '.join(compilation.tables) or 'none'}"


def _text(params: Json, key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str) or not value:
        raise RpcError("invalid", f"$.{key}: found {value!r}, must be a text")
    return value


def _service(params: Json, declared: list[Service]) -> tuple[Service, list[str]]:
    """Return what is asked for, and notes on what was chosen: without a port the first that is declared."""
    port, protocol = params.get("port"), params.get("protocol")
    if protocol not in (None, *PROTOCOLS):
        raise RpcError("invalid", f"$.protocol: found {protocol!r}, must be one of {', '.join(PROTOCOLS)}")
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536):
        raise RpcError("invalid", f"$.port: found {port!r}, must be 1 to 65535")
    wanted = [one for one in declared if protocol in (None, one.protocol) and port in (None, one.port)]
    if port is not None:
        return Service(str(protocol or (wanted[0].protocol if wanted else "tcp")), port), []
    if wanted:
        others = [f"{one.protocol} {one.port}" for one in wanted[1:]]
        note = f"no port was named: taken {wanted[0].protocol} {wanted[0].port}"
        return wanted[0], [note + (f"; also declared: {', '.join(others)}" if others else "")]
    service = Service(str(protocol or "tcp"), ANY_PORT)
    return service, [f"no port was named and none is declared: tried {service.protocol} {service.port}"]
