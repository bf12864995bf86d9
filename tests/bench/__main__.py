# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m tests.bench [--repetitions N]``: measure, print, and write it into docs/benchmarks.md."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from odyssey.demo.only import only_user
from odyssey.demo.world import World, WorldError
from odyssey.lab import Lab, LabError
from odyssey.lab.settings import Settings
from tests.bench import measure
from tests.bench.measure import AddNode, Bare

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = ROOT / "examples" / "shop" / "platform.json"
TARGET = ROOT / "docs" / "benchmarks.md"
NETWORK = "app"
TITLE = "# Benchmarks"
BEGIN, END = "<!-- addnode:begin -->", "<!-- addnode:end -->"
GOAL = 1.5
LOAD_BEFORE = os.getloadavg()[0]  # what else kept the machine busy


def main() -> int:
    """Measure; 0 when done, whatever the numbers are, 255 if it could not be done."""
    parser = argparse.ArgumentParser(
        prog="tests.bench", description="How long an addNode takes, and where the time goes."
    )
    parser.add_argument("--repetitions", type=int, default=20, metavar="N", help="of each measurement (default 20)")
    options = parser.parse_args()
    settings = Settings.from_environment()
    settings = replace(settings, directory=Path(f"{settings.directory}-bench"), prefix="bench")
    lab = Lab(settings)
    try:
        with only_user(settings), bench_platform() as (path, document), closing(lab):
            text = asyncio.run(run(World(lab, document), path, options.repetitions))
    except (LabError, WorldError, OSError) as error:
        print(f"bench: {error or type(error).__name__}", file=sys.stderr)
        return 255
    document_before = TARGET.read_text(encoding="utf-8") if TARGET.exists() else TITLE
    TARGET.write_text(put(document_before, text), encoding="utf-8")
    print(text)
    print(f"written to {TARGET}")
    return 0


def put(document: str, part: str) -> str:
    """The document with `part` between its markers, below the title where there are none; the rest is others'."""
    marked = f"{BEGIN}\n{part}{END}\n"
    if BEGIN in document and END in document:
        before, rest = document.split(BEGIN, 1)
        return before + marked + rest.split(END, 1)[1].removeprefix("\n")
    return f"{TITLE}\n\n{marked}" + document.removeprefix(TITLE)


@contextmanager
def closing(lab: Lab) -> Iterator[None]:
    """Take the lab down at the end, whatever happens."""
    try:
        yield
    finally:
        lab.down(wipe=False)


@contextmanager
def bench_platform() -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The shop without a standby node, so that an addNode has all of its work before it."""
    document = json.loads(PLATFORM.read_text(encoding="utf-8"))
    document["networks"][NETWORK]["scale"] |= {"standby": 0, "count": 2, "max": 8}
    with tempfile.TemporaryDirectory(prefix="odyssey-bench-") as folder:
        path = Path(folder) / "platform.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        yield path, document


async def run(world: World, platform: Path, repetitions: int) -> str:
    """All measurements, as a part of docs/benchmarks.md."""
    say = print_now
    lab = world.lab
    await asyncio.to_thread(lab.down, wipe=False)
    await asyncio.to_thread(lab.up, say)
    await world.settled()
    await world.ctl("platform", "apply", str(platform), note=say)
    plain: list[AddNode] = []
    gated: list[AddNode] = []
    bare: list[Bare] = []
    for number in range(1, repetitions + 1):
        plain.append(await once(world, gate=False))
        gated.append(await once(world, gate=True))
        node = (await world.nodes(NETWORK, "admitted"))[0]
        bare.append(await asyncio.to_thread(measure.docker_run, world, node["host"], node["image"], node["node"]))
        say(
            f"{number}/{repetitions}: serving {_ms(plain[-1].serving)} ms; first packet "
            f"{_ms(gated[-1].first_packet)} ms after the decision; "
            f"bare {_ms(bare[-1].returned)} ms, listening {_ms(bare[-1].listening)} ms"
        )
    standby = await promoted(world, repetitions, say)
    return document(plain, gated, bare, standby)


async def once(world: World, *, gate: bool) -> AddNode:
    """One addNode, and the node removed again."""
    measured = await measure.add_node(world, NETWORK, gate=gate)
    await world.ctl("network", "scale", f"{world.platform}/{NETWORK}", "2")
    await world.settled()
    return measured


async def promoted(world: World, repetitions: int, say: Callable[[str], None]) -> list[AddNode]:
    """The same with a standby node in place: its admission is all that is left to do."""
    wanted = json.loads(json.dumps(world.document))
    wanted["networks"][NETWORK]["scale"]["standby"] = 1
    with tempfile.TemporaryDirectory(prefix="odyssey-bench-") as folder:
        path = Path(folder) / "platform.json"
        path.write_text(json.dumps(wanted), encoding="utf-8")
        await world.ctl("platform", "apply", str(path), note=say)
        await world.settled()
        found = [await once(world, gate=False) for _ in range(repetitions)]
    say(f"with a standby node: serving {statistics.median(item.serving for item in found):.3f} s")
    return found


def document(
    plain: Sequence[AddNode], gated: Sequence[AddNode], bare: Sequence[Bare], standby: Sequence[AddNode]
) -> str:
    """The part of docs/benchmarks.md that tells of an addNode."""
    serving = statistics.median(item.serving for item in plain)
    returned = statistics.median(item.returned for item in bare)
    listening = statistics.median(item.listening for item in bare)
    rows = [
        ("addNode: call to serving", [item.serving for item in plain]),
        ("addNode: call to answer", [item.answered for item in plain]),
        ("addNode with a standby node: call to serving", [item.serving for item in standby]),
        ("bare `docker run -d --network none`: until it returns", [item.returned for item in bare]),
        ("bare `docker run -d --network none`: until the program listens", [item.listening for item in bare]),
        ("from the decision to the first packet", [item.first_packet for item in gated]),
    ]
    lines = [
        "## One addNode",
        "",
        f"Written by `make bench` on {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC; {os.cpu_count()} cores, "
        f"{measure.processor()}; load average {LOAD_BEFORE:.1f} before.",
        f"{len(plain)} repetitions of each, in turn, on the same lab (three Docker engines and two Open vSwitch",
        "instances on this one machine). Milliseconds: median, and the smallest and largest value seen.",
        "",
        "| what | median | from | to |",
        "|---|---|---|---|",
        *(_row(name, values) for name, values in rows),
        "",
        "addNode until serving takes",
        "",
        f"- **{serving / returned:.2f} times** as long as a bare `docker run` until it returns (goal: at most {GOAL});",
        f"- **{serving / listening:.2f} times** as long as a bare `docker run` until its program listens.",
        "",
        "*Serving* means that an HTTP request to `/healthz` from an lb node's network namespace was answered. The bare",
        "container gets the same image and the same mounted files. An agent keeps a few sandboxes ready, so an addNode",
        "starts one container. The *first packet* is a frame that is sent every",
        "half millisecond from an lb node and is seen on the network card of the new node's host.",
        "",
        "### Where its time goes",
        "",
        "No standby node; milliseconds since the call left, and since the hop before (medians).",
        "",
        "| hop | at | took |",
        "|---|---|---|",
        *_hops(plain),
        "",
    ]
    return "\n".join(lines)


def _row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | {_ms(statistics.median(values))} | {_ms(min(values))} | {_ms(max(values))} |"


def _hops(measured: Sequence[AddNode]) -> Iterator[str]:
    """Hops in the order of their medians, each with the difference to the one before."""
    times: dict[str, list[float]] = {}
    for item in measured:
        for hop in item.hops:
            times.setdefault(hop.name, []).append(hop.at)
        times.setdefault("an HTTP request is answered (serving)", []).append(item.serving)
        times.setdefault("the call is answered", []).append(item.answered)
    before = 0.0
    for name, values in sorted(times.items(), key=lambda entry: statistics.median(entry[1])):
        at = statistics.median(values)
        yield f"| {name} | {_ms(at)} | {_ms(at - before)} |"
        before = at


def _ms(value: float) -> str:
    return f"{value * 1000:.1f}"


def print_now(text: str) -> None:
    """Progress on standard error: standard output is the document."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
