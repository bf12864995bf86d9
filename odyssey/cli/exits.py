# SPDX-License-Identifier: AGPL-3.0-or-later
"""Exit codes of odysseyctl, and the errors that carry them to the shell."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import IO, Any

import click

from odyssey.cli.faults import FaultLine, fault_lines


class Exit(IntEnum):
    """What the shell gets. `docs/cli.md` documents the same list."""

    DONE = 0
    CHANGES = 1
    """Of plans and comparisons: something would change, or differs."""
    USAGE = 2
    REFUSED = 3
    """Nothing was done: invalid document, missing permission, unknown name, state moved since the plan."""
    FAILED = 4
    """The work was begun and did not reach its goal; what is committed stays."""
    UNREACHABLE = 5
    PENDING = 6
    """Decided, but not yet confirmed by every participant; it goes on by itself."""
    INTERRUPTED = 130
    PLAN_ERROR = 255


class Failure(click.ClickException):
    """An error that ends the command: text for people, faults if a document caused it, and the exit code."""

    def __init__(self, message: str, code: Exit, faults: Sequence[Any] = (), *, advice: str = "") -> None:
        # Some peers repeat the faults below the first line of their message; here they have lines of their own.
        super().__init__(message.partition("\n")[0].rstrip(":") if faults else message)
        self.exit_code = int(code)  # type: ignore[misc]  # click reads it from the instance
        self.faults: tuple[FaultLine, ...] = fault_lines(faults)
        self.advice = advice

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the error to stderr, one line for each fault."""
        click.echo(f"odysseyctl: {self.format_message()}", file=file, err=file is None)
        for fault in self.faults:
            click.echo(f"  {fault.text()}", file=file, err=file is None)
        if self.advice:
            click.echo(self.advice, file=file, err=file is None)
