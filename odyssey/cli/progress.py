# SPDX-License-Identifier: AGPL-3.0-or-later
"""Progress of a service call: what its messages mean, as a value; two ways to show it.

On a terminal a list of the steps is redrawn in place; elsewhere each change is one line with its time of day.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from odyssey.cli.output import colour_wanted, is_terminal
from odyssey.cli.text import clean, plural, seconds

_RANK = {"waiting": 0, "preparing": 1, "draining": 1, "committed": 2, "aborted": 3, "finished": 3}
_ENDED = 3
_STYLES = {"finished": "green", "aborted": "red", "committed": "cyan", "preparing": "yellow", "draining": "yellow"}
_DONE_BY_PARTICIPANT = {"yes", "done", "aborted"}
REDRAWS_PER_SECOND = 8


@dataclass(slots=True)
class Step:
    """One step of a plan as far as it is known. Times are seconds of a monotonic clock."""

    number: int
    title: str
    state: str = "waiting"
    tx: str | None = None
    started: float | None = None
    ended: float | None = None
    reason: str = ""
    participants: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more happens in this step."""
        return _RANK[self.state] >= _ENDED

    def elapsed(self, now: float) -> float | None:
        """Seconds that the step has taken; None before it begins."""
        return None if self.started is None else (self.ended or now) - self.started

    def waits_for(self) -> list[str]:
        """The participants whose answer is still missing."""
        if self.over:
            return []
        return [name for name, state in self.participants.items() if state not in _DONE_BY_PARTICIPANT]


class ProgressModel:
    """Folds progress messages into steps; `apply` returns a line for each thing that changed.

    A message may come twice (a repeated call is told its history again): steps only move forward.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.text = ""
        self.nodes: dict[str, str] = {}

    def apply(self, message: Mapping[str, Any], now: float) -> list[str]:
        """Take one message that came at `now`. Unknown kinds are ignored: an older client meets a newer server."""
        handlers = {
            "plan": self._plan, "tx": self._tx, "stage": self._stage, "drain": self._drain, "quiet": self._quiet,
            "node": self._node, "message": self._message,
        }  # fmt: skip
        handler = handlers.get(str(message.get("kind")))
        return [clean(line) for line in handler(message, now)] if handler else []

    def _plan(self, message: Mapping[str, Any], now: float) -> list[str]:
        steps = [(int(step["step"]), str(step["title"])) for step in message.get("steps", [])]
        if steps == [(step.number, step.title) for step in self.steps]:
            return []
        self.steps = [Step(number, title) for number, title in steps]
        lines = [f"plan: {plural(len(steps), 'step')}, {plural(len(message.get('changes', [])), 'change')}"]
        return lines + [f"  {number}. {title}" for number, title in steps]

    def _tx(self, message: Mapping[str, Any], now: float) -> list[str]:
        step = self._step_of(message)
        new_transaction = step.tx is not None and step.tx != message.get("id")
        state = str(message.get("state", step.state))
        if _RANK.get(state, -1) < _RANK[step.state] and not new_transaction:
            return []
        lines = self._pass_by(step, now)
        step.tx = str(message.get("id", ""))
        lines += self._participants(step, message.get("participants") or {})
        if state in _RANK and (state != step.state or new_transaction):
            step.started = now if new_transaction or step.started is None else step.started
            step.state = state
            step.ended = now if step.over else None
            step.reason = str(message.get("reason") or "")
            lines.append(self._state_line(step, now))
        return lines

    def _stage(self, message: Mapping[str, Any], now: float) -> list[str]:
        step = self._step_of(message)
        note = f"{message.get('stage')}: {message.get('participant')} {message.get('state')}"
        if step.note == note or step.over:
            return []
        step.note = note
        return [f"{self._label(step)}: {note}"]

    def _drain(self, message: Mapping[str, Any], now: float) -> list[str]:
        counts: Mapping[str, Any] = message.get("nodes") or {}
        texts = [f"{node} {'unknown' if count is None else count}" for node, count in counts.items()]
        return self._wait(f"connections: {', '.join(texts)}", message, now)

    def _quiet(self, message: Mapping[str, Any], now: float) -> list[str]:
        rates: Mapping[str, Any] = message.get("ports") or {}
        texts = [f"port {port} {'unknown' if rate is None else f'{rate:g}/s'}" for port, rate in rates.items()]
        return self._wait(f"packets on {message.get('switch')}: {', '.join(texts)}", message, now)

    def _wait(self, note: str, message: Mapping[str, Any], now: float) -> list[str]:
        """A step that waits tells what for; it is the first one that is not over."""
        step = next((step for step in self.steps if not step.over), None)
        if step is None:
            return []
        remaining = message.get("remaining")
        changed = not step.note.startswith(note)
        step.note = note + (f"; at most {remaining:g} s more" if isinstance(remaining, int | float) else "")
        if step.state == "waiting":
            step.state, step.started = "draining", now
        return [f"{self._label(step)}: {step.note}"] if changed else []

    def _node(self, message: Mapping[str, Any], now: float) -> list[str]:
        node, state = str(message.get("node", "")), str(message.get("state") or message.get("phase") or "")
        if self.nodes.get(node) == state:
            return []
        self.nodes[node] = state
        return [f"node {node}: {state}"]

    def _message(self, message: Mapping[str, Any], now: float) -> list[str]:
        text = str(message.get("text", ""))
        if text == self.text:
            return []
        self.text = text
        return [text]

    def _step_of(self, message: Mapping[str, Any]) -> Step:
        """The step that the message names by number or by transaction; a new one if the plan was not seen."""
        number, tx = message.get("step"), message.get("id")
        for step in self.steps:
            if step.number == number or (number is None and tx is not None and step.tx == tx):
                return step
        step = Step(int(number or len(self.steps) + 1), str(message.get("title") or tx or ""))
        self.steps.append(step)
        return step

    def _pass_by(self, current: Step, now: float) -> list[str]:
        """Steps run in order, so those before `current` are over (a drain does not say so itself)."""
        lines = []
        for step in self.steps[: self.steps.index(current)]:
            if not step.over:
                step.state, step.ended, step.note = "finished", now, ""
                lines.append(self._state_line(step, now))
        return lines

    def _participants(self, step: Step, participants: Mapping[str, Any]) -> list[str]:
        changed = [
            f"{name} {state}"
            for name, state in participants.items()
            if step.participants.get(name) != state and (name in step.participants or state != "waiting")
        ]
        step.participants.update({str(name): str(state) for name, state in participants.items()})
        return [f"{self._label(step)}: {', '.join(changed)}"] if changed else []

    def _state_line(self, step: Step, now: float) -> str:
        elapsed = step.elapsed(now)
        took = f" in {seconds(elapsed)}" if step.over and elapsed is not None else ""
        why = f": {step.reason}" if step.reason else ""
        return f"{self._label(step)}: {step.title}: {step.state}{took}{why}"

    def _label(self, step: Step) -> str:
        return f"step {step.number}/{max(len(self.steps), step.number)}"


class Progress(ABC):
    """Shows the progress of one call; a context manager, so that the terminal is always left in order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.model = ProgressModel()
        self._clock = clock

    @abstractmethod
    def update(self, message: Mapping[str, Any]) -> None:
        """Take one progress message of the daemon."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Show a message of odysseyctl itself, such as a lost connection."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class SilentProgress(Progress):
    """Shows nothing (`--quiet`)."""

    def update(self, message: Mapping[str, Any]) -> None:
        return None

    def say(self, text: str) -> None:
        click.echo(clean(text), err=True)


class LineProgress(Progress):
    """One line on stderr for each change, for logs and pipes."""

    def update(self, message: Mapping[str, Any]) -> None:
        for line in self.model.apply(message, self._clock()):
            self.say(line)

    def say(self, text: str) -> None:
        click.echo(f"{datetime.now().astimezone():%H:%M:%S} {clean(text)}", err=True)


class LiveProgress(Progress):
    """The list of steps, redrawn in place on the terminal of stderr."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, console: Console | None = None) -> None:
        super().__init__(clock)
        self._console = console or Console(file=sys.stderr, no_color=not colour_wanted(sys.stderr), highlight=False)
        self._spinner = Spinner("line")
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=REDRAWS_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def update(self, message: Mapping[str, Any]) -> None:
        self.model.apply(message, self._clock())

    def say(self, text: str) -> None:
        self._console.print(Text(clean(text)))

    def __enter__(self) -> Progress:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.model.text = ""
        self._live.stop()

    def _render(self) -> RenderableType:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
        for _ in range(5):
            table.add_column(overflow="ellipsis", no_wrap=True)
        now = self._clock()
        for step in self.model.steps:
            elapsed = step.elapsed(now)
            running = step.started is not None and not step.over
            table.add_row(
                self._spinner if running else Text(" "),
                Text(clean(step.title)),
                Text(step.state, style=_STYLES.get(step.state, "dim")),
                Text(seconds(elapsed) if elapsed is not None else ""),
                Text(clean(_detail(step)), style="dim"),
            )
        return Group(table, Text(clean(self.model.text), style="dim")) if self.model.text else table


def _detail(step: Step) -> str:
    if step.reason:
        return step.reason
    if step.over:
        return ""
    waiting = step.waits_for()
    return "; ".join(part for part in (f"waits for {', '.join(waiting)}" if waiting else "", step.note) if part)


def progress_for(*, quiet: bool) -> Progress:
    """The right way to show progress where stderr goes."""
    if quiet:
        return SilentProgress()
    return LiveProgress() if is_terminal(sys.stderr) else LineProgress()
