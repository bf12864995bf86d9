# SPDX-License-Identifier: AGPL-3.0-or-later
"""odysseyctl, the command line of Odyssey. `docs/cli.md` describes it for users."""

from __future__ import annotations


def main() -> None:
    """Entry point of `odysseyctl`."""
    from odyssey.cli.program import run  # the package's pure parts load without the whole program

    run()
