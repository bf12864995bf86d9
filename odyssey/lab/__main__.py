# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m odyssey.lab up|down|status``."""

from __future__ import annotations

import argparse
import sys

from odyssey.lab.lab import Lab
from odyssey.lab.shell import LabError


def main(arguments: list[str] | None = None) -> int:
    """Carry out one command; return the exit code (0 done, 1 something is not up, 255 error)."""
    parser = argparse.ArgumentParser(prog="odyssey.lab", description="Docker hosts and switches on one machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring the lab up; what runs stays as it is")
    up.add_argument("--no-daemons", action="store_true", help="only hosts, switches and wires")
    down = commands.add_parser("down", help="stop everything and forget the cluster")
    down.add_argument("--wipe", action="store_true", help="remove the lab's directory too, with images and logs")
    commands.add_parser("status", help="what runs")
    options = parser.parse_args(arguments)
    try:
        return _carry_out(Lab(), options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 255


def _carry_out(lab: Lab, options: argparse.Namespace) -> int:
    if options.command == "up":
        lab.infrastructure_up(print) if options.no_daemons else lab.up(print)
    elif options.command == "down":
        lab.down(wipe=options.wipe, progress=print)
    else:
        status = lab.status()
        for part in status.parts:
            print(f"{part.name:12} {'up' if part.up else 'DOWN':5} {part.detail}")
        return 0 if status.up else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
