# SPDX-License-Identifier: AGPL-3.0-or-later
"""``python -m tests.conformance ENDPOINT``: does an RDMP server keep to docs/rdmp.md?  Exit code 0 only if it does."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.conformance.checks import checks
from tests.conformance.wire import Breach, Closed, Target


def main() -> int:
    """Run every check; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("endpoint", help="unix:/path, tcp:host:port, or tls:host:port with --pki")
    parser.add_argument("--pki", type=Path, help="directory with cert.pem, key.pem and ca.pem, for tls:")
    parser.add_argument("--role", default="operator", help="role that the connection proves (default: operator)")
    parser.add_argument("--name", default="conformance", help="name that the certificate proves")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    target = Target(arguments.endpoint, arguments.pki, arguments.role, arguments.name)
    faults: dict[str, str] = {}
    suite = checks(arguments.role)
    for check in suite:
        name = check.__name__.replace("_", " ")
        try:
            check(target)
        except (Breach, Closed, OSError, ValueError, KeyError, TypeError) as error:
            faults[name] = f"{type(error).__name__}: {error}"
        if not arguments.json:
            print(f"FAIL {name}: {faults[name]}" if name in faults else f"ok   {name}", flush=True)
    if arguments.json:
        print(json.dumps({"checks": len(suite), "failed": faults}, indent=2))
    else:
        print(f"{len(suite) - len(faults)} of {len(suite)} checks hold")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
