# SPDX-License-Identifier: AGPL-3.0-or-later
"""odysseyctl on a real (pseudo) terminal: redrawing, colour, NO_COLOR, confirmation."""

from __future__ import annotations

import os
import pty
import re
from typing import Any

import pytest

from tests.unit.cli.conftest import start_ctl
from tests.unit.cli.fake import Call, FakeDaemon
from tests.unit.cli.test_calls import DONE, PLANNED, service_calls, telling
from tests.unit.cli.test_questions import ANSWERS

COLOUR = re.compile(r"\x1b\[(\d+;)*3[0-7]m")
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def on_terminal(daemon: FakeDaemon, *arguments: str, typed: bytes = b"", **environment: str) -> tuple[int, str]:
    """Exit code and everything that the terminal got."""
    master, slave = pty.openpty()
    environment = {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40", **environment}
    process = start_ctl(daemon, *arguments, stdin=slave, stdout=slave, stderr=slave, environment=environment)
    os.close(slave)
    os.write(master, typed)
    seen = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # Linux: EIO when the last user of the terminal has gone
            break
        if not data:
            break
        seen += data
    os.close(master)
    return process.wait(30), seen.decode()


def test_progress_is_redrawn_in_place_and_the_cursor_comes_back(daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = telling
    code, seen = on_terminal(daemon, "network", "scale", "shop/app", "3")
    assert code == 0
    assert seen.index(HIDE_CURSOR) < seen.rindex(SHOW_CURSOR)
    assert re.search(r"add 1 node.*finished", seen)
    assert COLOUR.search(seen)
    assert "done: 1 transaction committed" in seen


def test_no_color_means_no_colour(daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = telling
    code, seen = on_terminal(daemon, "network", "scale", "shop/app", "3", NO_COLOR="1")
    assert code == 0
    assert HIDE_CURSOR in seen
    assert not COLOUR.search(seen)


def test_a_plan_is_coloured_unless_no_color_is_set(daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = PLANNED
    command = ("network", "scale", "shop/app", "3", "--dry-run")
    assert COLOUR.search(on_terminal(daemon, *command)[1])
    assert not COLOUR.search(on_terminal(daemon, *command, NO_COLOR="1")[1])


def test_a_dumb_terminal_gets_lines(daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = telling
    code, seen = on_terminal(daemon, "network", "scale", "shop/app", "3", TERM="dumb")
    assert code == 0
    assert "\x1b" not in seen
    assert re.search(r"\d\d:\d\d:\d\d step 1/1: add 1 node: finished", seen)


def test_tables_on_a_terminal(daemon: FakeDaemon) -> None:
    daemon.answers.update(ANSWERS)
    code, seen = on_terminal(daemon, "node", "ls", NO_COLOR="1")
    assert code == 0
    assert re.search(r"shop-app-1 +shop +app +h1 +172\.16\.20\.2", seen)


@pytest.mark.parametrize(("typed", "code", "calls"), [(b"y\n", 0, 1), (b"n\n", 3, 0), (b"\x04", 130, 0)])
def test_removing_a_platform_asks_a_person_first(daemon: FakeDaemon, typed: bytes, code: int, calls: int) -> None:
    daemon.answers.update({"service.call": DONE, "node.list": ANSWERS["node.list"]})
    found, seen = on_terminal(daemon, "platform", "rm", "shop", typed=typed)
    assert "Remove platform shop with 1 node?" in seen
    assert (found, len(service_calls(daemon))) == (code, calls)


def test_yes_answers_before_it_is_asked(daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = DONE
    code, seen = on_terminal(daemon, "platform", "rm", "shop", "--yes")
    assert (code, "Remove" in seen) == (0, False)


def test_a_peer_cannot_steer_the_terminal(daemon: FakeDaemon) -> None:
    def evil(call: Call) -> dict[str, Any]:
        call.progress({"kind": "message", "text": "\x1b]0;owned\x07"})
        return {**DONE, "nodes": [{"node": "\x1b]0;owned\x07", "phase": "p", "host": "h", "address": "a"}]}

    daemon.answers["service.call"] = evil
    assert "\x1b]0;" not in on_terminal(daemon, "network", "scale", "shop/app", "3")[1]
