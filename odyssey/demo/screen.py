# SPDX-License-Identifier: AGPL-3.0-or-later
"""Shows how the demonstration proceeds: redrawn in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from odyssey.demo.report import Truth

REDRAWS_PER_SECOND = 8
PLAIN_WIDTH = 120  # characters of a line in a file or a log
PLAIN_INTERVAL = 2.0  # s; at most one line of plain progress in this time


class Screen(ABC):
    """One step at a time: `begin`, any number of `note`, `end`."""

    def __init__(self, console: Console, steps: int) -> None:
        self.console = console
        self._steps = steps
        self._number = 0
        self._title = ""
        self._opened = time.monotonic()
        self._begun = self._opened

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def begin(self, title: str) -> None:
        """The next step begins."""
        self._number += 1
        self._title = title
        self._begun = time.monotonic()

    @abstractmethod
    def note(self, text: str) -> None:
        """What is going on in this step now."""

    def end(self, result: str, findings: Sequence[str] = ()) -> None:
        """The step is over; `findings` are what should not have been found."""
        took = time.monotonic() - self._begun
        mark, style = ("failed", "bold red") if findings else ("ok", "green")
        line = Text.assemble(
            (f"{mark:>6} ", style), (f"{self._number:2d}/{self._steps} ", "dim"), f"{self._title}  ",
            (f"{took:.1f} s", "dim"),
        )  # fmt: skip
        self.console.print(line, soft_wrap=True)
        if result:
            self.console.print(Text(f"             {result}", style="dim"), soft_wrap=True)
        for finding in findings:
            self.console.print(Text(f"             {finding}", style="red"), soft_wrap=True)

    def say(self, text: str = "") -> None:
        """A line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def truths(self, truths: Sequence[Truth]) -> None:
        """The table at the end."""
        table = Table(title="What is true", title_justify="left", expand=False)
        table.add_column("")
        table.add_column("statement")
        table.add_column("evidence")
        for truth in truths:
            mark = Text("holds", "green") if truth.holds else Text("FAILS", "bold red")
            table.add_row(mark, Text(truth.name), Text(truth.evidence))
        self.console.print(table)

    def elapsed(self) -> float:
        """Seconds since the screen was made."""
        return time.monotonic() - self._opened


class PlainScreen(Screen):
    """One line for each step, and now and then one for what goes on in it."""

    def __init__(self, console: Console, steps: int) -> None:
        super().__init__(console, steps)
        self._noted = 0.0

    def begin(self, title: str) -> None:
        super().begin(title)
        self.console.print(Text(f"{self.elapsed():6.1f} {self._number:2d}/{self._steps} {title}"), soft_wrap=True)
        self._noted = time.monotonic()

    def note(self, text: str) -> None:
        now = time.monotonic()
        if now - self._noted >= PLAIN_INTERVAL:
            self._noted = now
            self.console.print(Text(f"{self.elapsed():6.1f}       {text}"), soft_wrap=True)


class LiveScreen(Screen):
    """A line at the bottom that is redrawn: the step, its time so far and what goes on in it."""

    def __init__(self, console: Console, steps: int) -> None:
        super().__init__(console, steps)
        self._text = ""
        self._running = False
        self._spinner = Spinner("dots")
        self._live = Live(
            get_renderable=self._draw, console=console, refresh_per_second=REDRAWS_PER_SECOND, transient=True
        )

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, title: str) -> None:
        super().begin(title)
        self._text = ""
        self._running = True

    def note(self, text: str) -> None:
        self._text = text

    def end(self, result: str, findings: Sequence[str] = ()) -> None:
        self._running = False
        super().end(result, findings)

    def _draw(self) -> RenderableType:
        if not self._running:
            return Text("")
        took = time.monotonic() - self._begun
        self._spinner.update(
            text=Text.assemble((f"{self._number}/{self._steps} ", "dim"), self._title, (f"  {took:.1f} s", "dim"))
        )
        return Group(self._spinner, Text(f"             {self._text}", style="dim", overflow="ellipsis", no_wrap=True))


def make(steps: int) -> Screen:
    """The screen that fits where standard output goes; NO_COLOR is honoured."""
    console = Console(highlight=False)
    if console.is_terminal:
        return LiveScreen(console, steps)
    return PlainScreen(Console(highlight=False, width=PLAIN_WIDTH), steps)
