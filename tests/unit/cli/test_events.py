# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl events`: ranges, topics, forms, and resuming after a lost connection."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Any

import pytest

from tests.unit.cli.conftest import Ctl, start_ctl
from tests.unit.cli.fake import FakeDaemon


def event(index: int, topic: str = "node.admitted") -> dict[str, Any]:
    return {"index": index, "time": f"2026-11-23T10:00:{index % 60:02}Z", "topic": topic, "data": {"node": f"n{index}"}}


@pytest.fixture
def told(daemon: FakeDaemon) -> FakeDaemon:
    daemon.events = [event(index, "tx.decided" if index % 2 else "node.admitted") for index in range(1, 81)]
    return daemon


def indexes(text: str) -> list[int]:
    return [int(line.split()[0]) for line in text.splitlines()]


def test_the_newest_events_are_shown(ctl: Ctl, told: FakeDaemon) -> None:
    result = ctl("events")
    assert (result.exit_code, indexes(result.stdout)) == (0, list(range(31, 81)))
    assert result.stdout.splitlines()[-1].split() == ["80", "2026-11-23T10:00:20Z", "node.admitted", "node=n80"]


def test_from_an_index_and_of_some_topics(ctl: Ctl, told: FakeDaemon) -> None:
    assert indexes(ctl("events", "--from", "70").stdout) == list(range(70, 81))
    assert indexes(ctl("events", "--from", "70", "--topic", "tx.>").stdout) == [71, 73, 75, 77, 79]
    assert indexes(ctl("events", "--from", "78", "--topic", "tx.*", "--topic", "node.*").stdout) == [78, 79, 80]
    assert ctl("events", "--from", "99").stdout == ""
    assert ctl("events", "--from", "0").exit_code == 2


def test_no_events_end_at_once(ctl: Ctl, daemon: FakeDaemon) -> None:
    result = ctl("events")
    assert (result.exit_code, result.stdout) == (0, "")


def test_json_is_one_object_a_line(ctl: Ctl, told: FakeDaemon) -> None:
    lines = ctl("events", "--from", "79", "-o", "json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == told.events[-2:]


def test_a_lost_connection_leaves_nothing_out_and_tells_nothing_twice(ctl: Ctl, told: FakeDaemon) -> None:
    told.cut_after_events = 15
    result = ctl("events", "--from", "51")
    assert indexes(result.stdout) == list(range(51, 81))
    assert "connection to odysseyd lost" in result.stderr
    assert [one.get("from") for one in told.subscriptions] == [51, 66]


def test_follow_goes_on_until_ctrl_c(told: FakeDaemon) -> None:
    process = start_ctl(told, "events", "--follow", "--from", "79", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert [process.stdout.readline().split()[0] for _ in range(2)] == [b"79", b"80"]
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_closed_pipe_ends_quietly(told: FakeDaemon) -> None:
    process = start_ctl(told, "events", "--follow", "--from", "1", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.wait(30)
