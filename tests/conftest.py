# SPDX-License-Identifier: AGPL-3.0-or-later
"""What all tests share: the count of skipped tests by reason at the end of a run."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

# A shell starts background jobs with SIGINT ignored, and children inherit that: then no test of Ctrl-C works.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def skip_reason(report: pytest.TestReport) -> str:
    """Return the reason of a skipped test, without pytest's prefix."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests were skipped for which reason."""
    reasons = Counter(skip_reason(report) for report in terminalreporter.getreports("skipped"))
    terminalreporter.section("skips by reason", sep="-")
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count:5d}  {reason}")
    terminalreporter.line(f"{sum(reasons.values()):5d}  skipped in all")
