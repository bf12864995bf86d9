# SPDX-License-Identifier: AGPL-3.0-or-later
"""Service calls: made with an id, watched until they end, repeated by the same id after a lost connection."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from odyssey.cli.app import App
from odyssey.cli.connection import Session
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.faults import FaultLine
from odyssey.cli.planview import show_plan
from odyssey.cli.progress import Progress, progress_for
from odyssey.cli.text import cell, columns, plural

F = TypeVar("F", bound=Callable[..., Any])

CALL_TIMEOUT = 3600.0
"""Seconds that one service call is waited for before odysseyctl stops watching."""

RETURN_TIME = 10.0
"""Seconds after a reconnect for which a refusal is not believed: odysseyd restarted, and its hosts come back too."""
RETURN_PAUSE = 0.5

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What the options of every changing command say."""

    call_id: str | None = None
    index: int | None = None
    atomic: bool = False
    dry_run: bool = False
    quiet: bool = False
    flows: bool = False


def _check_id(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _ID.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not allowed: it must match {_ID.pattern}")
    return value


def call_options(command: F) -> F:
    """Add the options of every command that changes something; the command gets one `CallOptions`."""
    options = (
        click.option("--id", "call_id", callback=_check_id, help="Id of the call; repeat a command with the same id."),
        click.option("--index", type=click.IntRange(min=0), help="Refuse if the state is not at this index any more."),
        click.option("--atomic", is_flag=True, help="Undo committed steps if a later one fails."),
        click.option("--dry-run", is_flag=True, help="Show the plan only; exit 0 (no change) or 1 (some)."),
        click.option("--flows", is_flag=True, help="With --dry-run: show each switch entry and setting too."),
        click.option("-q", "--quiet", is_flag=True, help="No progress."),
    )
    for option in reversed(options):  # a decorator that is applied later is shown earlier
        command = option(command)
    return command


def service_call(service: str, system: Mapping[str, Any], options: CallOptions) -> dict[str, Any]:
    """The `service-call` document; `options.call_id` must be set."""
    return {
        "SYSServiceID": service,
        "id": options.call_id,
        "data": [{"System": dict(system)}],
        "options": {"dryRun": options.dry_run, "atomic": options.atomic, "index": options.index},
    }


def carry_out(app: App, service: str, system: Mapping[str, Any], options: CallOptions) -> None:
    """Make the call, show its progress and its answer; ends the command with the exit code that fits."""
    options = replace(options, call_id=options.call_id or f"ctl-{secrets.token_hex(5)}")
    if options.dry_run:
        _exit(plan(app, service, system, options))
    app.out.note(f"call {options.call_id}")
    answer = _watch(app, service_call(service, system, options), options.quiet)
    if app.out.json:
        app.out.data(answer)
    else:
        show_answer(app, answer)
    _exit(exit_code(answer), answer)


def plan(app: App, service: str, system: Mapping[str, Any], options: CallOptions) -> Exit:
    """Show what the call would do; returns DONE (nothing) or CHANGES. Raises Failure."""
    dry = replace(options, dry_run=True, call_id=options.call_id or f"plan-{secrets.token_hex(5)}")
    answer = _watch(app, service_call(service, system, dry), quiet=True)
    if app.out.json:
        app.out.data(answer)
    else:
        show_plan(app.out, answer, flows=options.flows)
    refusals = answer.get("refusals") or []
    if refusals:
        raise Failure("the switches cannot carry this", Exit.REFUSED, [_refusal(item) for item in refusals])
    return Exit.CHANGES if (answer.get("plan") or {}).get("changes") else Exit.DONE


def _refusal(item: Any) -> FaultLine:
    if isinstance(item, Mapping):
        text = str(item.get("message") or item.get("reason") or item)
        return FaultLine(str(item.get("path") or item.get("switch") or "controller"), None, "", text)
    return FaultLine("controller", None, "", str(item))


def _watch(app: App, request: Mapping[str, Any], quiet: bool) -> dict[str, Any]:
    call_id = request["id"]
    dry = bool(request["options"]["dryRun"])
    try:
        with progress_for(quiet=quiet) as progress:
            return asyncio.run(_call(app, request, progress))
    except KeyboardInterrupt:
        if dry:
            raise
        raise Failure(
            f"no longer watching call {call_id}; the work goes on in odysseyd",
            Exit.INTERRUPTED,
            advice=f"How it stands: odysseyctl call show {call_id}; to watch again, repeat it with --id {call_id}",
        ) from None
    except Failure as error:
        if not dry and error.exit_code in (Exit.UNREACHABLE, Exit.FAILED):
            hint = f"The work may go on. How it stands: odysseyctl call show {call_id}; to repeat it: --id {call_id}"
            error.advice = "\n".join(part for part in (error.advice, hint) if part)
        raise


async def _call(app: App, request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    async with Session(app.connection.target(), progress.say) as session:
        while True:
            try:
                return await session.call("service.call", request, on_progress=progress.update, timeout=CALL_TIMEOUT)
            except Failure as error:
                if error.exit_code != Exit.REFUSED or session.since_reconnect() > RETURN_TIME:
                    raise
                progress.update(
                    {"kind": "message", "text": f"{error.message}; hosts may not be back yet, trying again"}
                )
                await asyncio.sleep(RETURN_PAUSE)


def exit_code(answer: Mapping[str, Any]) -> Exit:
    """What the state of a call means to the shell."""
    return {"done": Exit.DONE, "planned": Exit.DONE, "pending": Exit.PENDING, "running": Exit.PENDING}.get(
        str(answer.get("state")), Exit.FAILED
    )


def show_answer(app: App, answer: Mapping[str, Any]) -> None:
    """What came of a call, for people: the nodes that it touched and one sentence."""
    nodes: Sequence[Mapping[str, Any]] = answer.get("nodes") or []
    keys = ("node", "phase", "host", "address")
    for text in columns([tuple(cell(node.get(key)) for key in keys) for node in nodes]):
        app.out.line(text)
    transactions: Sequence[Mapping[str, Any]] = answer.get("transactions") or []
    committed = sum(item.get("state") == "committed" for item in transactions)
    state, index = answer.get("state"), answer.get("index")
    if state == "done" and not transactions:
        app.out.line(f"nothing to change; the state is at index {index}")
    else:
        app.out.line(f"{state}: {plural(committed, 'transaction')} committed; the state is at index {index}")


def _exit(code: Exit, answer: Mapping[str, Any] | None = None) -> None:
    if code in (Exit.DONE, Exit.CHANGES):
        click.get_current_context().exit(int(code))
    answer = answer or {}
    error: Mapping[str, Any] = answer.get("error") or {}
    call_id = answer.get("id")
    if code is Exit.PENDING:
        raise Failure(
            str(error.get("message") or "decided, but not confirmed by every participant yet"),
            code,
            advice=f"It goes on by itself. How it stands: odysseyctl call show {call_id}",
        )
    kept = [str(item.get("id")) for item in answer.get("transactions") or [] if item.get("state") == "committed"]
    advice = f"Committed and kept: {', '.join(kept)}. " if kept else "Nothing was changed. "
    raise Failure(
        str(error.get("message") or f"the call ended as {answer.get('state')}"),
        code,
        error.get("faults") or (),
        advice=f"{advice}To take it up again, repeat the command with --id {call_id}",
    )
