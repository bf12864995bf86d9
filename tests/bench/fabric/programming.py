# SPDX-License-Identifier: AGPL-3.0-or-later
"""How many entries in a second a switch can be given, and verified, beside Open vSwitch's own program."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from os_ken.ofproto import ofproto_v1_3
from os_ken.ofproto.ofproto_protocol import ProtocolDesc

from controller import texts
from controller.changes import Change, FlowChange, difference
from controller.compiler import compile_documents
from controller.connection import SwitchConnection
from controller.flows import TableSet
from controller.openflow import actions, oxm, replies, wire
from controller.openflow.channel import OpenFlowChannel
from tests.bench.fabric import intents
from tests.bench.fabric.support import Json, Sizes, connected, folder, one_switch
from tests.bench.rdmp.support import BenchError, processor_seconds
from tests.integration.controller_support import OpenVSwitch, Pki
from tests.unit.controller.reference_openflow import reference_bundle_addition

SWITCH = "sw1"


def measure(sizes: Sizes) -> Json:
    """All rows; each is measured in turn, ``repeats`` times."""
    values = intents.stamped(intents.documents(intents.Size(sizes.programmed_nodes, 2)))
    wanted = compile_documents(values).tables[SWITCH]
    with folder() as where, one_switch(where) as switch:
        return asyncio.run(_Run(switch, Pki(where / "pki"), where, wanted, sizes.repeats).all())


class _Run:
    """The measurements on one switch."""

    def __init__(self, switch: OpenVSwitch, pki: Pki, where: Path, wanted: TableSet, repeats: int) -> None:
        self._switch = switch
        self._pki = pki
        self._wanted = wanted
        self._repeats = repeats
        self._count = len(wanted.entries)
        # Groups and meters, which entries refer to, are there before; entries alone are measured.
        self._base = TableSet({}, wanted.groups, wanted.meters)
        self._changes = [change for change in difference(self._base, wanted) if isinstance(change, FlowChange)]
        self._file = where / "entries"
        self._file.write_text("".join(f"{texts.entry_text(entry)}\n" for entry in wanted), encoding="ascii")

    async def all(self) -> Json:
        async with connected(self._switch, self._pki) as channel:
            await channel.apply(difference(TableSet(), self._base))
            rows: dict[str, list[Json]] = {}
            kinds: dict[str, Callable[[OpenFlowChannel], Awaitable[None]]] = {
                "os-ken's objects: sent": self._osken,
                "Odyssey, not yet encoded: sent": self._unencoded,
                "Odyssey, not yet encoded: sent and verified": self._unencoded_verified,
                "Odyssey, kept encoded: sent": self._kept,
                "Odyssey, kept encoded: sent and verified": self._verified,
                "Odyssey: a full switch read and compared": self._read,
                "ovs-ofctl add-flows": self._add_flows,
                "ovs-ofctl --bundle add-flows": self._bundle_add_flows,
            }
            for _ in range(self._repeats):
                for name, kind in kinds.items():
                    rows.setdefault(name, []).append(await self._once(channel, name, kind))
            await asyncio.to_thread(self._switch.ofctl, "del-flows")
        return {"entries": self._count, "rows": [_row(name, self._count, found) for name, found in rows.items()]}

    async def _once(
        self, channel: OpenFlowChannel, name: str, work: Callable[[OpenFlowChannel], Awaitable[None]]
    ) -> Json:
        if work != self._read:
            await asyncio.to_thread(self._switch.ofctl, "del-flows")
        daemon = self._switch.pid("ovs-vswitchd")
        cpu, theirs, begun = time.process_time(), processor_seconds([daemon]), time.perf_counter()
        await work(channel)
        seconds = time.perf_counter() - begun
        cpu = time.process_time() - cpu
        theirs = processor_seconds([daemon]) - theirs
        if (held := await asyncio.to_thread(self._held)) != self._count:
            raise BenchError(f"{name}: the switch holds {held} entries, not {self._count}")
        return {"seconds": seconds, "cpu": cpu, "switch_cpu": theirs}

    def _held(self) -> int:
        """Return how many entries the switch says that it has."""
        return int(self._switch.ofctl("dump-aggregate").rpartition("flow_count=")[2])

    async def _osken(self, channel: OpenFlowChannel) -> None:
        """The same bundle, made of os-ken's own objects."""
        mine = wire.bundle_additions
        wire.bundle_additions = _osken_additions
        try:
            await channel.apply(self._changes)
        finally:
            wire.bundle_additions = mine

    async def _unencoded(self, channel: OpenFlowChannel) -> None:
        forget()
        await channel.apply(self._changes)

    async def _kept(self, channel: OpenFlowChannel) -> None:
        await channel.apply(self._changes)

    async def _unencoded_verified(self, channel: OpenFlowChannel) -> None:
        forget()
        await self._verified(channel)

    async def _verified(self, channel: OpenFlowChannel) -> None:
        """What the controller does: find out what is there, send the difference, read everything back and compare."""
        if await SwitchConnection(SWITCH, channel).bring_to(lambda: self._wanted) != self._count:
            raise BenchError("not every entry was sent")

    async def _read(self, channel: OpenFlowChannel) -> None:
        if await SwitchConnection(SWITCH, channel).bring_to(lambda: self._wanted):
            raise BenchError("the switch did not hold what it was given")

    async def _add_flows(self, channel: OpenFlowChannel) -> None:
        await asyncio.to_thread(self._switch.ofctl, "add-flows", str(self._file))

    async def _bundle_add_flows(self, channel: OpenFlowChannel) -> None:
        await asyncio.to_thread(self._switch.ofctl, "add-flows", str(self._file), "--bundle")


def forget() -> None:
    """Let the controller's OpenFlow be as it is when it starts: nothing encoded and nothing read before."""
    wire._kept = wire._Kept(wire.KEPT_ENTRIES)
    for module in (actions, oxm, replies):
        for remembering in vars(module).values():
            if hasattr(remembering, "cache_clear"):
                remembering.cache_clear()


def _osken_additions(changes: Sequence[Change], bundle: int, first_xid: int) -> Iterator[bytes]:
    datapath = ProtocolDesc(ofproto_v1_3.OFP_VERSION)
    for xid, change in enumerate(changes, start=first_xid):
        yield reference_bundle_addition(datapath, change, bundle, xid)


def _row(name: str, entries: int, found: list[Json]) -> Json:
    median = statistics.median(one["seconds"] for one in found)
    return {
        "name": name,
        "per_second": round(entries / median),
        "slowest": round(entries / max(one["seconds"] for one in found)),
        "fastest": round(entries / min(one["seconds"] for one in found)),
        "cpu_us": round(statistics.median(one["cpu"] for one in found) / entries * 1e6, 1),
        "switch_cpu_us": round(statistics.median(one["switch_cpu"] for one in found) / entries * 1e6, 1),
    }
