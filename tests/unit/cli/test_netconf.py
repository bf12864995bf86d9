# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl netconf`: what is asked, exit codes, what is shown, and that a person is asked first."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.cli.conftest import Ctl
from tests.unit.cli.fake import Call, FakeDaemon, RpcFault
from tests.unit.cli.test_terminal import COLOUR, on_terminal

Json = dict[str, Any]
NAME = "20261126T151144.709026Z.xml"
SW1: Json = {
    "switch": "sw1", "profile": "nexus9000", "address": "192.0.2.21:830", "connected": True, "reachable": True,
    "problem": None, "capabilities": ["candidate:1.0", "validate:1.0", "validate:1.1"], "drift": ["+ /a", "- /b"],
    "restored": None, "transaction": "c.1", "held": True,
}  # fmt: skip
CHANGES = [
    {"op": "~", "path": "/System/BD-list[vlan-120]/name", "has": "by-hand", "shall": "shop-app"},
    {"op": "+", "path": "/System/BD-list[vlan-130]/name", "has": None, "shall": "shop-db"},
    {"op": "-", "path": "/System/BD-list[vlan-150]", "has": None, "shall": None},
]
LINES = [
    "~ /System/BD-list[vlan-120]/name = by-hand -> shop-app",
    "+ /System/BD-list[vlan-130]/name = shop-db",
    "- /System/BD-list[vlan-150]",
]


def difference(**more: Any) -> Json:
    whole = {"switch": "sw1", "backup": None, "equal": False, "changes": CHANGES, "more": 0, "restored": None,
             "transaction": None}  # fmt: skip
    return {**whole, **more}


def carrying_out(**more: Any) -> Any:
    def answer(call: Call) -> Json:
        call.progress({"kind": "netconf", "step": 3, "of": 5, "text": "change and read back"})
        done = {"switch": "sw1", "changes": CHANGES, "more": 0, "saved": True, "unsaved": None}
        return {**done, **({"backup": NAME, "restored": NAME} if "backup" in call.params else {}), **more}

    return answer


def methods(daemon: FakeDaemon) -> list[str]:
    return [method for method, _ in daemon.calls]


def test_the_list_tells_how_long_ago_and_how_much(ctl: Ctl, daemon: FakeDaemon) -> None:
    ago = (datetime.now(UTC) - timedelta(minutes=3, seconds=4)).isoformat()
    away = {**SW1, "switch": "sw2", "reachable": False, "verified": None, "drift": [], "transaction": None,
            "problem": "cannot connect to 192.0.2.22:830"}  # fmt: skip
    daemon.answers["netconf.list"] = {"netconf": True, "switches": [{**SW1, "verified": ago}, away]}
    result = ctl("netconf", "ls")
    first, second = (line.split("  ") for line in result.stdout.splitlines()[1:])
    assert "3 min 4 s ago" in (item.strip() for item in first) and "2" in first and "c.1" in first
    assert "candidate, validate" in result.stdout
    assert "no" in second and "0" not in second, "nobody has looked for drift"
    assert result.stderr == "sw2: cannot connect to 192.0.2.22:830\n"
    assert json.loads(ctl("netconf", "ls", "-o", "json").stdout) == daemon.answers["netconf.list"]


def test_an_absent_daemon_is_told(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["netconf.list"] = {"netconf": False, "switches": [{**SW1, "reachable": None, "drift": None}]}
    result = ctl("netconf", "ls")
    assert result.exit_code == 0 and "odyssey-netconf is not connected" in result.stderr
    daemon.answers["netconf.list"] = {"netconf": False, "switches": []}
    assert ctl("netconf", "ls").stderr == "no switch has `management` in the inventory\n"


def test_a_difference_is_shown_by_line_and_exit_code(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["netconf.diff"] = difference(restored=NAME, transaction="c.1")
    result = ctl("netconf", "diff", "sw1")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [*LINES, "sw1: 3 differences from what was decided"]
    assert NAME in result.stderr and "netconf mend sw1" in result.stderr and "c.1 is configuring sw1" in result.stderr
    shown = ctl("netconf", "diff", "sw1", "-o", "json")
    assert (shown.exit_code, json.loads(shown.stdout)) == (1, daemon.answers["netconf.diff"])
    daemon.answers["netconf.diff"] = difference(equal=True, changes=[], backup=NAME)
    result = ctl("netconf", "diff", "sw1", "--backup", NAME)
    assert (result.exit_code, result.stdout) == (0, f"sw1: equal to backup {NAME}\n")
    assert daemon.calls[-1] == ("netconf.diff", {"switch": "sw1", "backup": NAME})


def test_more_differences_than_are_shown_are_counted(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["netconf.diff"] = difference(more=5000)
    assert "sw1: 5003 differences" in ctl("netconf", "diff", "sw1").stdout


@pytest.mark.parametrize("code", ["failed", "not_found", "forbidden"])
def test_every_error_of_a_comparison_is_255(ctl: Ctl, daemon: FakeDaemon, code: str) -> None:
    def error(_: Call) -> None:
        raise RpcFault(code, "sw1: cannot connect")

    daemon.answers["netconf.diff"] = error
    result = ctl("netconf", "diff", "sw1")
    assert (result.exit_code, result.stdout, result.stderr) == (255, "", "odysseyctl: sw1: cannot connect\n")
    assert ctl("netconf", "diff").exit_code == 255


def test_backups_are_listed_with_what_they_are(ctl: Ctl, daemon: FakeDaemon) -> None:
    first = {"name": "20261126T151141.060551Z.xml", "taken": "2026-11-26T15:11:41Z", "bytes": 484, "first": True}
    second = {"name": NAME, "taken": "2026-11-26T15:11:44Z", "bytes": 7749, "first": False}
    daemon.answers["netconf.backups"] = {"switch": "sw1", "restored": NAME, "backups": [first, second]}
    lines = ctl("netconf", "backups", "sw1").stdout.splitlines()
    assert "never deleted" in lines[1] and "484" in lines[1]
    assert "restored, and left so" in lines[2] and NAME in lines[2]
    daemon.answers["netconf.backups"] = {"switch": "sw1", "restored": None, "backups": []}
    assert "no backup of sw1" in ctl("netconf", "backups", "sw1").stderr


def test_a_restore_shows_what_changes_then_its_progress(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers |= {"netconf.diff": difference(backup=NAME), "netconf.restore": carrying_out()}
    result = ctl("netconf", "restore", "sw1", NAME)
    assert result.exit_code == 0
    asked = {"switch": "sw1", "backup": NAME}
    assert daemon.calls == [("netconf.diff", asked), ("netconf.restore", asked)]
    assert result.stdout.splitlines() == [
        *LINES, f"sw1: 3 differences from backup {NAME}", f"sw1 is restored from {NAME}: 3 changes carried out",
    ]  # fmt: skip
    assert "[3/5] change and read back" in result.stderr and "netconf mend sw1" in result.stderr
    shown = ctl("netconf", "restore", "sw1", NAME, "-o", "json")
    assert json.loads(shown.stdout)["restored"] == NAME


def test_what_cannot_be_saved_is_told(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["netconf.diff"] = difference()
    daemon.answers["netconf.mend"] = carrying_out(saved=False, unsaved="running but not saved to startup")
    result = ctl("netconf", "mend", "sw1", "--yes")
    assert result.exit_code == 0 and "sw1 is as decided: 3 changes carried out" in result.stdout
    assert "sw1: running but not saved to startup" in result.stderr


@pytest.mark.parametrize(("code", "found"), [("failed", 4), ("busy", 3), ("not_found", 3)])
def test_a_restore_that_was_begun_is_told_from_one_that_was_refused(
    ctl: Ctl, daemon: FakeDaemon, code: str, found: int
) -> None:
    def error(_: Call) -> None:
        raise RpcFault(code, "sw1: the device said ok and did not do it")

    daemon.answers |= {"netconf.diff": difference(backup=NAME), "netconf.restore": error}
    assert ctl("netconf", "restore", "sw1", NAME, "--yes").exit_code == found


@pytest.mark.parametrize(("typed", "code", "calls"), [(b"y\n", 0, 2), (b"n\n", 3, 1)])
@pytest.mark.parametrize("command", [("restore", "sw1", NAME), ("mend", "sw1")], ids=["restore", "mend"])
def test_a_person_sees_what_changes_and_is_asked(
    daemon: FakeDaemon, command: tuple[str, ...], typed: bytes, code: int, calls: int
) -> None:
    daemon.answers |= {
        "netconf.diff": difference(), "netconf.restore": carrying_out(), "netconf.mend": carrying_out(restored=None),
    }  # fmt: skip
    found, seen = on_terminal(daemon, "netconf", *command, typed=typed)
    assert seen.index("BD-list[vlan-150]") < seen.index("3 changes?")
    assert COLOUR.search(seen)
    assert (found, len(daemon.calls)) == (code, calls)
    assert ("nothing was changed" in seen) is (code == 3)


def test_yes_answers_before_it_is_asked(daemon: FakeDaemon) -> None:
    daemon.answers |= {"netconf.diff": difference(), "netconf.restore": carrying_out()}
    code, seen = on_terminal(daemon, "netconf", "restore", "sw1", NAME, "--yes")
    assert (code, "3 changes?" in seen, methods(daemon)) == (0, False, ["netconf.diff", "netconf.restore"])
