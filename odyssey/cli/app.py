# SPDX-License-Identifier: AGPL-3.0-or-later
"""What every command shares: where odysseyd is, how to write, and how a question is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click

from odyssey.cli.connection import ConnectionOptions, OnProgress, Session
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.output import JSON, TABLE, Output

F = TypeVar("F", bound=Callable[..., Any])

QUESTION_TIMEOUT = 30.0
"""Seconds that odysseyd may take to answer a question."""
READ_TIMEOUT = 65.0
"""The same where switches are read for the answer."""


@dataclass(slots=True)
class App:
    """The settings of one invocation; click hands it to every command."""

    connection: ConnectionOptions = field(default_factory=ConnectionOptions)
    out: Output = field(default_factory=Output)

    def ask(
        self, method: str, params: Mapping[str, Any] | None = None, seconds: float = QUESTION_TIMEOUT,
        on_progress: OnProgress | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Ask odysseyd something that changes nothing. Raises Failure."""

        async def question() -> dict[str, Any]:
            async with Session(self.connection.target(), self.out.note) as session:
                return await session.call(method, params or {}, timeout=seconds, on_progress=on_progress)

        return asyncio.run(question())


def _choose_format(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(App).out.form = value


def output_option(command: F) -> F:
    """Add `-o/--output`; it may stand on the program and on every command, the last one counts."""
    return click.option(
        "-o", "--output",
        type=click.Choice([TABLE, JSON]),
        default=None,
        expose_value=False,
        callback=_choose_format,
        help="Form of the data on stdout (default: table).",
    )(command)  # fmt: skip


class PlanCommand(click.Command):
    """A command that exits 0 (no change), 1 (some) or 255 (error), so every error must be 255."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _plan_error(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            raise _plan_error(error) from error


def _plan_error(error: click.ClickException) -> click.ClickException:
    if isinstance(error, Failure) and error.exit_code == Exit.INTERRUPTED:
        return error
    error.exit_code = int(Exit.PLAN_ERROR)  # type: ignore[misc]  # click reads it from the instance
    return error
