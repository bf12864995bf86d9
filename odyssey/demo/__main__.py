# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m odyssey.demo [--keep] [--report FILE]``: the program behind `make demo`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from odyssey.demo import screen
from odyssey.demo.only import only_user
from odyssey.demo.report import Report
from odyssey.demo.scenario import Demonstration, Options
from odyssey.lab import Lab, LabError

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = Path("examples/shop/platform.json")


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; 0 only if all of it held, 1 if something did not, 255 if it could not begin."""
    parser = argparse.ArgumentParser(prog="odyssey.demo", description="The main job of Odyssey, start to end.")
    parser.add_argument("--keep", action="store_true", help="leave everything up at the end (or DEMO_KEEP=1)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the result as JSON (or DEMO_REPORT=FILE)")
    options = parser.parse_args(arguments)
    keep = options.keep or os.environ.get("DEMO_KEEP", "") not in ("", "0")
    target = options.report or (Path(os.environ["DEMO_REPORT"]) if os.environ.get("DEMO_REPORT") else None)
    if os.geteuid() != 0:
        print("demo: it makes network namespaces and starts Docker engines, so it needs root", file=sys.stderr)
        return 255
    target = target.resolve() if target else None
    os.chdir(ROOT)
    try:
        demonstration = Demonstration(Lab(), Options(PLATFORM, keep))
        with only_user(demonstration.lab.settings):
            report = _show(demonstration)
    except (LabError, OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 255
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    return 0 if report.ok else 1


def _show(demonstration: Demonstration) -> Report:
    shown = screen.make(len(demonstration.steps()) + (0 if demonstration.options.keep else 1))
    with shown:
        report = asyncio.run(demonstration.run(shown))
    shown.truths(report.truths())
    if report.failure:
        shown.say(f"It stopped at: {report.failure}")
        shown.say(f"Logs: {demonstration.lab.settings.directory}/*/*.log")
    elif report.findings:
        shown.say(f"Found {len(report.findings)} things that should not be: they stand under the steps above.")
    seconds = report.seconds
    verdict = "All of it held" if report.ok else "NOT all of it held"
    shown.say(
        f"{verdict}. {seconds.total:.1f} s: setup {seconds.setup:.1f}, images {seconds.images:.1f}, "
        f"apply {seconds.apply:.1f}, scale up {seconds.scale_up:.1f}, scale down {seconds.scale_down:.1f}"
    )
    if demonstration.options.keep:
        shown.say(what_next(demonstration))
    return report


def what_next(demonstration: Demonstration) -> str:
    """What a newcomer may try while the lab is up."""
    lab, platform = demonstration.lab, demonstration.world.platform
    entrance = next(iter(demonstration.known_entrances), "ADDRESS")
    ctl = ".venv/bin/odysseyctl"
    tries = (
        (f"nsenter --net={lab.netns('edge')} curl -s http://{entrance}/", "be a customer at the border"),
        (f"{ctl} node ls", "where every node runs"),
        (f"{ctl} network scale {platform}/app 4", "watch it happen"),
        (f"{ctl} events --follow", "every step as an event"),
        (f"{ctl} switch flows sw1", "who owns which flow entry"),
        (f"{ctl} tx ls", "every transaction and its decision"),
        (f"{ctl} platform plan {PLATFORM}", "what applying the document again would change"),
        ("make lab-down", "take it down"),
    )
    width = max(len(command) for command, _ in tries)
    lines = [f"  {command:{width}}   # {text}" for command, text in tries]
    return "\n".join(["", "The lab is up. Try:", *lines])


if __name__ == "__main__":
    sys.exit(main())
