# SPDX-License-Identifier: AGPL-3.0-or-later
"""The demonstration, step by step. Each step returns what it found out; the report is made of that.

A step that finds something wrong says so and the demonstration goes on, so that one run shows all that is wrong. A
step that cannot be carried out ends it. The lab is taken down in either case, unless it is to be kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from odyssey.demo import crash, headless, web
from odyssey.demo.load import Counts, Load, LoadError
from odyssey.demo.matrix import Station
from odyssey.demo.observe import ObserveError
from odyssey.demo.report import Crash, Headless, Policy, Report, Requests, Transactions
from odyssey.demo.screen import Screen
from odyssey.demo.world import BORDER, World, WorldError
from odyssey.lab import Lab, LabError
from rdmp.rpc import RpcError

FIELDS = ("node", "database")  # an answer that carries both has come through all three tiers
RATE = 60.0  # requests each second while app is scaled
ASKED_EACH = 5  # requests by hand to each entrance
UP, DOWN = 6, 2  # nodes of app
STEADY = 60  # requests that are answered before, between and after the changes
TOLD = 8  # findings of one kind that are printed


class Stopped(Exception):
    """A step could not be carried out: what, and where to look."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what it is called, what it checks, and the coroutine that does it."""

    title: str
    checks: str
    run: Callable[[], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step found: a line for people, and what should not have been found."""

    text: str
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asked for."""

    platform: Path
    keep: bool = False


class Demonstration:
    """Runs the steps and keeps the report."""

    def __init__(self, lab: Lab, options: Options) -> None:
        self.lab = lab
        self.options = options
        self.document: Mapping[str, Any] = json.loads(options.platform.read_text(encoding="utf-8"))
        self.world = World(lab, self.document)
        self.report = Report()
        self.known_entrances: list[str] = []
        self.screen: Screen | None = None
        self._load: Load | None = None
        self._before = Counts()

    def steps(self) -> tuple[Step, ...]:
        """All steps in order, without the end (`teardown`)."""
        return (
            Step("Bring up the lab", "three Docker hosts, two OpenFlow switches, all daemons", self.setup),
            Step("Build and load the images", "HAProxy, the application, PostgreSQL", self.images),
            Step(f"Apply {self.options.platform}", "every transaction is committed", self.apply),
            Step("Send requests through all three tiers", "each answer names app and db node", self.serve),
            Step("Try every path, declared or not", "declared open, all else closed", self.policy),
            Step(f"Scale app from {DOWN} to {UP} under load", "no request fails", self.scale_up),
            Step(f"Scale app from {UP} back to {DOWN} under load", "no request fails", self.scale_down),
            Step("SIGKILL odysseyd in the middle of addNode", "nothing is half done", self.crash),
            Step("Stop every daemon, empty caches, pull a cable", "traffic flows, nothing changes", self.headless),
            Step("Look at all transactions", "none is in doubt", self.transactions),
        )

    async def run(self, screen: Screen) -> Report:
        """Run all steps, then take the lab down (or keep it). The report says whether all of it held."""
        self.screen = screen
        begun = time.monotonic()
        try:
            for step in self.steps():
                await self._step(screen, step)
        except Stopped as stopped:
            self.report = replace(self.report, failure=str(stopped))
        except asyncio.CancelledError:  # Ctrl-C: what is up is still taken down
            screen.end("", ("interrupted",))
            self.report = replace(self.report, failure="interrupted")
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        finally:
            await self._end_load()
        if not self.options.keep:
            await self._step_down(screen)
        self._seconds(total=time.monotonic() - begun)
        return self.report

    async def _step(self, screen: Screen, step: Step) -> None:
        screen.begin(f"{step.title} ({step.checks})")
        try:
            outcome = await step.run()
        except (LabError, WorldError, LoadError, ObserveError, RpcError, web.WebError, OSError, TimeoutError) as error:
            text = f"{step.title}: {error or type(error).__name__}"
            screen.end("", (str(error) or type(error).__name__, f"logs: {self.lab.settings.directory}/*/*.log"))
            raise Stopped(text) from error
        self.report = replace(self.report, findings=(*self.report.findings, *outcome.findings))
        screen.end(outcome.text, _few(outcome.findings))

    async def _step_down(self, screen: Screen) -> None:
        """Take the lab down; a lab that does not go is a failure too."""
        with contextlib.suppress(Stopped):
            await self._step(screen, Step("Take the lab down", "nothing is left", self.teardown))
            return
        self.report = replace(self.report, failure=self.report.failure or "the lab could not be taken down")

    def note(self, text: str) -> None:
        """Progress inside a step."""
        if self.screen is not None:
            self.screen.note(text)

    async def setup(self) -> Outcome:
        """Everything but the platform, from nothing: a lab that is left over is taken down first."""
        begun = time.monotonic()
        await asyncio.to_thread(self.lab.down, wipe=False, progress=self.note)
        await asyncio.to_thread(self.lab.up, self.note, images=False)
        await self.world.settled()
        took = self._seconds(setup=time.monotonic() - begun)
        return Outcome(f"{len(self.lab.settings.hosts)} hosts and the controller are connected after {took:.1f} s")

    async def images(self) -> Outcome:
        """Build what is not cached, and give every engine what it lacks."""
        begun = time.monotonic()
        await asyncio.to_thread(self.lab.images, progress=self.note)
        took = self._seconds(images=time.monotonic() - begun)
        return Outcome(f"every host has the images after {took:.1f} s")

    async def apply(self) -> Outcome:
        """Apply the platform document as an operator does."""
        begun = time.monotonic()
        await self.world.ctl("platform", "apply", str(self.options.platform), note=self.note)
        took = self._seconds(apply=time.monotonic() - begun)
        nodes = await self.world.nodes()
        return Outcome(f"{len(nodes)} nodes after {took:.1f} s: " + ", ".join(_placed(node) for node in nodes))

    async def serve(self) -> Outcome:
        """Ask every entrance a few times, and every node for itself."""
        stations = await self.world.stations()
        served: dict[str, int] = {}
        text, findings = "", []
        for url in self.entrances(stations):
            for _ in range(ASKED_EACH):
                answer = await web.get(self.lab.netns("edge"), url)
                text = f"{answer.status} {answer.body.decode('utf-8', 'replace').strip()}"
                document = json.loads(answer.body) if answer.status == 200 else {}
                if not all(document.get(field) for field in FIELDS):
                    findings.append(f"http://{url}/ answered {text}")
                server = str(document.get(FIELDS[0]))
                served[server] = served.get(server, 0) + 1
        serving, silent = await serving_nodes(self.world, stations)
        expected = len(await self.world.nodes(None, "admitted"))
        self._before = Counts(sent=sum(served.values()), failed=len(findings), ok=sum(served.values()) - len(findings))
        self.report = replace(self.report, nodes_serving=serving, nodes_expected=expected)
        return Outcome(f"the last answer: {text}", (*findings, *silent))

    def entrances(self, stations: Sequence[Station]) -> list[str]:
        """The addresses at which the border reaches the platform."""
        exposed = {rule.target for rule in self.world.rules if rule.source == BORDER}
        found = [station.address for station in stations if station.network in exposed and station.admitted]
        self.known_entrances = found
        return found

    async def policy(self) -> Outcome:
        """Every declared path and the whole matrix of what is not declared."""
        result = await self.world.check_policy()
        tried = sum(result.denied.values())
        self.report = replace(
            self.report,
            policy=Policy(result.allowed_ok, len(result.allowed_failed), len(result.leaks), tried, result.sound),
        )
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(result.denied.items()))
        findings = (
            *(f"declared, but closed: {text}" for text in result.allowed_failed),
            *(f"undeclared, but open: {leak}" for leak in result.leaks),
            *(f"declared, but its frame did not arrive: {text}" for text in result.controls_unseen),
        )
        return Outcome(f"{result.allowed_ok} declared paths are open; {tried} other attempts: {kinds}", findings)

    async def scale_up(self) -> Outcome:
        """Start the load and let app grow."""
        urls = [f"http://{address}/" for address in self.entrances(await self.world.stations())]
        self._load = Load(self.lab.netns("edge"), urls, rate=RATE, fields=FIELDS)
        await self._load.__aenter__()
        await self._load.phase("before")
        await self._load.reaches("before", STEADY)
        return await self._scale(UP, "scale_up")

    async def scale_down(self) -> Outcome:
        """Let app shrink, and stop the load."""
        outcome = await self._scale(DOWN, "scale_down")
        assert self._load is not None
        counts = await self._load.finish()
        before = self._before
        self.report = replace(
            self.report,
            requests=Requests(before.sent + counts.sent, before.ok + counts.ok, before.failed + counts.failed),
        )
        served = ", ".join(f"{name} {count}" for name, count in sorted(counts.servers.items()))
        return Outcome(f"{outcome.text}; answered by {served}", (*outcome.findings, *counts.failures))

    async def _scale(self, count: int, phase: str) -> Outcome:
        """Scale app to `count` nodes while the load goes on, and some requests longer."""
        assert self._load is not None
        load, network = self._load, f"{self.world.platform}/app"
        await load.phase(phase)
        begun = time.monotonic()

        def note(text: str) -> None:
            counts = load.counts()
            self.note(f"{counts.sent} requests, {counts.failed} failed; {text}")

        await self.world.ctl("network", "scale", network, str(count), note=note)
        took = time.monotonic() - begun
        self._seconds(**{phase: took})
        await load.phase(f"after {phase}")
        await load.reaches(f"after {phase}", STEADY)
        counts = load.counts()
        admitted = len(await self.world.nodes("app", "admitted"))
        wrong = () if admitted == count else (f"app has {admitted} admitted nodes instead of {count}",)
        return Outcome(f"{took:.1f} s; {counts.sent} requests so far, {counts.failed} failed", wrong)

    async def crash(self) -> Outcome:
        """Kill odysseyd twice: while a container is being prepared, and after the decision to admit a standby node."""
        moments: tuple[tuple[str, crash.Moment, str], ...] = (
            ("lb", crash.container_appears, "when the new container appeared"),
            ("app", crash.decided, "when it was decided"),
        )
        strikes = []
        for network, moment, text in moments:
            strikes.append(await crash.strike(self.world, network, text, moment, note=self.note))
        findings = tuple(finding for strike in strikes for finding in strike.findings)
        self.report = replace(
            self.report,
            crash=Crash(
                half_done=len(findings),
                recovered_seconds=max(strike.recovered_seconds for strike in strikes),
                outcomes=tuple(str(strike) for strike in strikes),
            ),
        )
        return Outcome("; ".join(str(strike) for strike in strikes), findings)

    async def headless(self) -> Outcome:
        """No daemon at all."""
        urls = [f"http://{address}/" for address in self.entrances(await self.world.stations())]
        result = await headless.run(self.world, urls, FIELDS, note=self.note)
        self.report = replace(
            self.report,
            headless=Headless(
                result.counts.sent, result.counts.failed, result.pairs_ok, len(result.pairs_failed), not result.changed
            ),
        )
        slowest = ", ".join(f"{phase} {value:.2f} s" for phase, value in result.counts.slowest.items())
        text = f"{result.counts.sent} requests, {result.counts.failed} failed; slowest answer: {slowest}"
        return Outcome(text, (*result.counts.failures, *result.pairs_failed, *result.changed))

    async def transactions(self) -> Outcome:
        """How all transactions ended, and a last look for anything half done."""
        records = await self.world.records()
        states = [record["state"] for record in records.transactions]
        found = Transactions(states.count("committed"), states.count("aborted"), len(records.open()))
        self.report = replace(self.report, transactions=found)
        text = f"{found.committed} committed, {found.aborted} aborted, {found.in_doubt} in doubt"
        return Outcome(text, await self.world.half_done())

    async def teardown(self) -> Outcome:
        """Take everything down; images and logs stay."""
        await asyncio.to_thread(self.lab.down, wipe=False, progress=self.note)
        left = (*left_namespaces(self.lab), *left_processes(self.lab))
        return Outcome(f"images stay cached, logs stay in {self.lab.settings.directory}", left)

    async def _end_load(self) -> None:
        if self._load is not None:
            await self._load.__aexit__(None, None, None)

    def _seconds(self, **values: float) -> float:
        self.report = replace(self.report, seconds=replace(self.report.seconds, **values))
        return next(iter(values.values()))


def left_namespaces(lab: Lab) -> tuple[str, ...]:
    """Network namespaces of the lab that are still there."""
    names = (*lab.settings.hosts, *lab.settings.switches, "mgmt", "edge")
    return tuple(f"namespace {lab.netns(name)} is left" for name in names if lab.netns(name).exists())


def left_processes(lab: Lab) -> tuple[str, ...]:
    """Processes that work in the lab's directory and are still there."""
    mark, found = f"{lab.settings.directory}/", []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if mark in line:
                    found.append(f"process {entry.name} is left: {line[:100]}")
    return tuple(found)


async def serving_nodes(world: World, stations: Sequence[Station]) -> tuple[int, list[str]]:
    """How many nodes answer on their service port to somebody who may ask them, and which do not."""
    serving, silent = 0, []
    for target in stations:
        if target.host is None or not target.admitted:
            continue
        asker, port = _asker(world, stations, target)
        try:
            (await web.connect(asker.namespace, target.address, port, 5.0)).close()
            serving += 1
        except (OSError, TimeoutError) as error:
            silent.append(f"{target.name} does not answer {asker.name} on port {port}: {error or 'no answer'}")
    return serving, silent


def _asker(world: World, stations: Sequence[Station], target: Station) -> tuple[Station, int]:
    for rule in world.rules:
        for station in stations:
            if rule.target == target.network and rule.source == station.network and station.admitted:
                return station, rule.port
    raise WorldError(f"nobody is declared to reach {target.name}")


def _placed(node: Mapping[str, Any]) -> str:
    phase = "" if node["phase"] == "admitted" else f", {node['phase']}"
    return f"{node['node']} ({node['host']}{phase})"


def _few(findings: Sequence[str]) -> tuple[str, ...]:
    if len(findings) <= TOLD:
        return tuple(findings)
    return (*findings[:TOLD], f"and {len(findings) - TOLD} more")
