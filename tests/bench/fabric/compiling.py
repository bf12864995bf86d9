# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compile time, memory and entries by size of the fabric, for each profile; no switch takes part.

Each size is compiled in a process of its own, which has compiled nothing before:
``python -m tests.bench.fabric.compiling JSON``.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from typing import Any

from controller.compiler import capacity_refusals, compile_documents
from controller.fabric import IntentRefused
from controller.profiles import PROFILES
from rdmp.tuning import collect_rarely
from tests.bench.fabric import intents
from tests.bench.fabric.intents import MOST_ENTRIES, Size
from tests.bench.fabric.support import Json, Sizes
from tests.bench.rdmp.support import ROOT, BenchError, memory, say

#: Entries that a switch has room for (docs/fabric.md); where none is named the inventory does not limit it.
ROOM = {"nexus9000": 3000}
SECONDS = 600.0
NEAR = 0.02  # how exactly the largest fabric that fits is told


def measure(sizes: Sizes) -> list[Json]:
    """One row for each profile, number of switches and number of nodes."""
    rows = []
    for profile in PROFILES:
        for switches in sizes.compiled_switches:
            for nodes in sizes.compiled_nodes:
                say(f"  {profile}, {switches} switches, {nodes} nodes")
                rows.append(_elsewhere({"nodes": nodes, "switches": switches, "profile": profile}))
    return rows


def largest(sizes: Sizes) -> list[Json]:
    """For each profile whose room is known: the largest number of nodes that fits, by number of switches."""
    found = []
    for profile, room in ROOM.items():
        for switches in sizes.compiled_switches if profile in PROFILES else ():
            low, high = 0, max(sizes.compiled_nodes)
            while high - low > max(1, int(low * NEAR)):
                middle = (low + high) // 2
                low, high = (middle, high) if _fits(profile, switches, middle, room) else (low, middle)
            found.append({"profile": profile, "switches": switches, "room": room, "nodes": low})
    return found


def _size(profile: str, switches: int, nodes: int) -> Size:
    tagged = not PROFILES[profile].capabilities.push_vlan
    return Size(nodes, switches, profile, ROOM.get(profile, MOST_ENTRIES), tagged)


def _fits(profile: str, switches: int, nodes: int, room: int) -> bool:
    try:
        compilation = compile_documents(intents.stamped(intents.documents(_size(profile, switches, nodes))))
    except IntentRefused:
        return False
    return all(len(tables.entries) <= room for tables in compilation.tables.values())


def _elsewhere(settings: Json) -> Json:
    command = [sys.executable, "-m", __spec__.name, json.dumps(settings)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise BenchError(f"compiling {settings}: {done.stderr[-500:]}")
    found: Json = json.loads(done.stdout)
    return found


def compile_once(profile: str, switches: int, nodes: int) -> Json:
    """Compile twice, the second time after one node changed; measured in this process."""
    row: Json = {"profile": profile, "switches": switches, "nodes": nodes}
    documents = intents.stamped(intents.documents(_size(profile, switches, nodes)))
    gc.collect()
    before = memory()
    try:
        seconds, compilation = _timed(documents)
    except IntentRefused as refused:
        return row | {"refused": str(refused.refusals[0])}
    row |= {"first_s": round(seconds, 4), "mib": round((memory() - before) / 2**20, 1)}
    counts = [len(tables.entries) for tables in compilation.tables.values()]
    key = f"binding/{intents.node_name('app', 0)}"
    changed = {**documents[key].value, "phase": "draining"}
    seconds, _ = _timed({**documents, **intents.stamped({key: changed})})
    row |= {"again_s": round(seconds, 4), "entries": sum(counts), "most": max(counts)}
    if refusals := capacity_refusals(compilation, []):
        row["refused"] = str(refusals[0])
    return row


def _timed(documents: Any) -> tuple[float, Any]:
    begun = time.perf_counter()
    compilation = compile_documents(documents)
    return time.perf_counter() - begun, compilation


if __name__ == "__main__":
    collect_rarely()
    print(json.dumps(compile_once(**json.loads(sys.argv[1]))))
