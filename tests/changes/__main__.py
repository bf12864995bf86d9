# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m tests.changes --changes N``: random changes on two real Open vSwitch switches; needs root."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.changes.run import Verdict, prepare_nodes, run
from tests.integration.controller_harness import Controller
from tests.integration.controller_support import Lab, Pki


def main() -> None:
    """Run and print; exit 1 if anything was lost or leaked."""
    parser = argparse.ArgumentParser(prog="python -m tests.changes", description=__doc__)
    parser.add_argument("--changes", type=int, default=1000, help="how many changes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="what they are (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory))
        try:
            lab.up()
            prepare_nodes(lab)
            verdict = asyncio.run(_run(lab, Pki(Path(directory) / "pki"), arguments.changes, arguments.seed))
        finally:
            lab.down()
    found = verdict.to_json()
    if arguments.json:
        print(json.dumps(found))
    else:
        print(f"{found['changes']} changes, {found['sent']} packets: {found['lost']} lost, {found['leaked']} leaked")
        for title in ("lostUnderChange", "leakedOn"):
            for route, what in found[title].items():
                print(f"  {title}: {route}: {what}")
    sys.exit(bool(found["lost"] or found["leaked"]))


async def _run(lab: Lab, pki: Pki, changes: int, seed: int) -> Verdict:
    controller = Controller(lab, pki)
    await controller.start()
    await controller.attach()
    try:
        return await run(controller, changes, seed)
    finally:
        await controller.stop()


if __name__ == "__main__":
    main()
