# SPDX-License-Identifier: AGPL-3.0-or-later
"""Progress of a call: what the messages mean, as lines and as a redrawn list."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from odyssey.cli.progress import LineProgress, LiveProgress, ProgressModel, progress_for

PLAN = {
    "kind": "plan",
    "steps": [{"step": 1, "title": "admit 2 nodes"}, {"step": 2, "title": "drain"}, {"step": 3, "title": "retire"}],
    "changes": [{"op": "+", "kind": "node", "name": "shop-app-3", "detail": ""}],
}


def tx(step: int, state: str, **more: Any) -> dict[str, Any]:
    return {"kind": "tx", "id": f"c.{step}", "step": step, "title": f"step {step}", "state": state, **more}


def lines(*messages: Mapping[str, Any]) -> list[str]:
    model, found = ProgressModel(), []
    for now, message in enumerate(messages):
        found += model.apply(message, float(now))
    return found


def test_a_call_as_lines() -> None:
    assert lines(
        PLAN,
        tx(1, "preparing", participants={"h1": "waiting", "controller": "waiting"}),
        tx(1, "preparing", participants={"h1": "yes", "controller": "waiting"}),
        tx(1, "committed", participants={"h1": "yes", "controller": "yes"}),
        {"kind": "stage", "id": "c.1", "stage": "admit", "participant": "controller", "state": "done"},
        tx(1, "finished"),
        {"kind": "drain", "nodes": {"shop-app-4": 3}, "remaining": 20},
        {"kind": "drain", "nodes": {"shop-app-4": 3}, "remaining": 19},
        {"kind": "drain", "nodes": {"shop-app-4": 0}, "remaining": 18},
        tx(3, "preparing"),
        tx(3, "aborted", reason="h2: no such container"),
    ) == [
        "plan: 3 steps, 1 change",
        "  1. admit 2 nodes",
        "  2. drain",
        "  3. retire",
        "step 1/3: admit 2 nodes: preparing",
        "step 1/3: h1 yes",
        "step 1/3: controller yes",
        "step 1/3: admit 2 nodes: committed",
        "step 1/3: admit: controller done",
        "step 1/3: admit 2 nodes: finished in 4.0 s",
        "step 2/3: connections: shop-app-4 3; at most 20 s more",
        "step 2/3: connections: shop-app-4 0; at most 18 s more",
        "step 2/3: drain: finished in 3.0 s",
        "step 3/3: retire: preparing",
        "step 3/3: retire: aborted in 1.0 s: h2: no such container",
    ]


def test_a_history_that_is_told_again_changes_nothing() -> None:
    history = [PLAN, tx(1, "preparing", participants={"h1": "waiting"}), tx(1, "committed"), tx(1, "finished")]
    assert lines(*history, *history) == lines(*history)


def test_a_repeated_call_with_a_new_plan_starts_over() -> None:
    shorter = {"kind": "plan", "steps": [{"step": 1, "title": "retire"}], "changes": []}
    assert lines(PLAN, tx(1, "finished"), shorter)[-2:] == ["plan: 1 step, 0 changes", "  1. retire"]


def test_a_step_that_is_tried_with_another_transaction_is_shown_again() -> None:
    again = {**tx(1, "preparing"), "id": "c.9"}
    assert lines(PLAN, tx(1, "aborted", reason="x"), again)[-1] == "step 1/3: admit 2 nodes: preparing"


def test_progress_without_a_plan_and_unknown_messages_do_no_harm() -> None:
    assert lines({"kind": "new-kind"}, {}, {"kind": "message", "text": "waiting for network/shop/app"}) == [
        "waiting for network/shop/app"
    ]
    assert lines({"kind": "drain", "nodes": {"n": None}}) == []
    assert lines(tx(2, "preparing")) == ["step 2/2: step 2: preparing"]
    assert lines({"kind": "node", "node": "a", "state": "admitted"}) == ["node a: admitted"]
    assert lines(tx(1, "a state of the future")) == []


def test_a_switch_is_waited_for_until_it_carries_nothing() -> None:
    plan = {"kind": "plan", "steps": [{"step": 1, "title": "quiet"}, {"step": 2, "title": "isolate"}], "changes": []}
    assert lines(
        plan,
        {"kind": "quiet", "switch": "sw2", "ports": {"1": 250.0, "2": None}, "remaining": 29},
        {"kind": "quiet", "switch": "sw2", "ports": {"1": 0.5, "2": 0.0}, "remaining": 28},
        tx(2, "preparing"),
    )[3:] == [
        "step 1/2: packets on sw2: port 1 250/s, port 2 unknown; at most 29 s more",
        "step 1/2: packets on sw2: port 1 0.5/s, port 2 0/s; at most 28 s more",
        "step 1/2: quiet: finished in 2.0 s",
        "step 2/2: isolate: preparing",
    ]


def test_control_characters_of_a_peer_do_not_reach_the_terminal() -> None:
    assert lines({"kind": "message", "text": "a\x1b[2Jb\nc"}) == ["a[2Jb c"]


def test_who_is_waited_for() -> None:
    model = ProgressModel()
    model.apply(PLAN, 0)
    model.apply(tx(1, "preparing", participants={"h1": "yes", "h2": "waiting"}), 0)
    assert model.steps[0].waits_for() == ["h2"]
    model.apply(tx(1, "finished"), 1)
    assert model.steps[0].waits_for() == []


def test_lines_carry_the_time_of_day(capsys: pytest.CaptureFixture[str]) -> None:
    with LineProgress() as progress:
        progress.update({"kind": "message", "text": "hello"})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"\d\d:\d\d:\d\d hello\n", captured.err)


def test_no_terminal_means_lines() -> None:
    assert isinstance(progress_for(quiet=False), LineProgress)


def live(colour: bool) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, no_color=not colour, highlight=False)
    seconds = iter([float(number) for number in range(100)])
    with LiveProgress(clock=lambda: next(seconds), console=console) as progress:
        progress.update(PLAN)
        progress.update(tx(1, "finished", participants={"h1": "yes"}))
        progress.update(tx(3, "preparing", participants={"h1": "waiting", "h2": "yes"}))
        progress.say("connection lost")
    return screen.getvalue()


def test_the_list_is_redrawn_with_state_and_elapsed_time() -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", live(colour=True))
    assert "connection lost" in text
    last = text[text.rindex("admit 2 nodes") :]
    assert re.search(r"admit 2 nodes +finished +0 ms", last)
    assert re.search(r"retire +preparing +\d+\.\d s +waits for h1\b", last)


def test_without_colour_the_list_has_none() -> None:
    assert re.search(r"\x1b\[(\d+;)*3[0-7]m", live(colour=True))
    assert not re.search(r"\x1b\[(\d+;)*3[0-7]m", live(colour=False))


def test_the_terminal_is_left_in_order_after_an_interrupt() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with pytest.raises(KeyboardInterrupt), LiveProgress(console=console) as progress:
        progress.update(PLAN)
        raise KeyboardInterrupt
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")
