# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m tests.fabric_check --cases N --json``: exit 0 if nothing differs, 1 if something does, 2 if it cannot."""

from __future__ import annotations

import argparse
import itertools
import json
import sys

from controller.profiles import PROFILES
from tests.fabric_check.cases import Shape
from tests.fabric_check.openvswitch import Availability, OpenVSwitch
from tests.fabric_check.run import Effort, Report, run


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fabric_check", description=__doc__)
    parser.add_argument("--cases", type=int, default=100, help="random fabrics and platforms (100)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed; a case has the seed of its account (1)")
    parser.add_argument("--packets", type=int, default=300, help="packets for each case, at most (300)")
    parser.add_argument("--traces", type=int, default=20, help="of these, asked of Open vSwitch; 0: it is not started")
    parser.add_argument("--failures", action="store_true", help="try ports that are down, too")
    parser.add_argument("--profile", choices=sorted(PROFILES), help="only switches of this kind")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the check."""
    options = parse(arguments)
    seeds = itertools.count(options.seed)
    effort = Effort(options.packets, options.traces, options.failures)
    shape = Shape() if options.profile is None else Shape((options.profile,), mixed=0.0)
    if not options.traces:
        return _tell(run(seeds, effort, shape, most=options.cases), options.json)
    if (missing := Availability.here().missing) is not None:
        print(f"{missing}; install openvswitch-switch, or leave Open vSwitch out with --traces 0", file=sys.stderr)
        return 2
    with OpenVSwitch() as switches:
        return _tell(run(seeds, effort, shape, switches, options.cases), options.json)


def _tell(report: Report, as_json: bool) -> int:
    print(json.dumps(report.to_json(), indent=2) if as_json else report)
    return 1 if report.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
