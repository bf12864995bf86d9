# SPDX-License-Identifier: AGPL-3.0-or-later
"""Commands that change something: the call that is made, progress, exit codes, lost connections, interrupts."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from odyssey.cli import submit
from tests.unit.cli.conftest import Ctl, start_ctl
from tests.unit.cli.fake import Call, FakeDaemon, Hangup, RpcFault
from tests.unit.cli.test_questions import NETWORK, NODE, TX

DOCUMENT = {"platform": "shop", "networks": {"app": {}}}
DONE = {"id": "x", "state": "done", "index": 42, "plan": {"changes": []}, "transactions": [TX], "nodes": [NODE]}
CHANGES = [
    {"op": "+", "kind": "node", "name": "shop-app-3", "detail": "h1, 172.16.20.4"},
    {"op": "~", "kind": "network", "name": "shop/app", "detail": "count 2 -> 3"},
    {"op": "-", "kind": "node", "name": "shop-app-9", "detail": ""},
]
PLANNED = {
    "id": "x", "state": "planned", "index": 41, "refusals": [], "controller": True,
    "plan": {
        "index": 41, "changes": CHANGES,
        "steps": [{"title": "add 1 node", "stages": ["admit"], "participants": ["h1", "controller"], "nodes": ["a"]}],
    },
    "switches": {
        "sw1": {
            "before": 120, "after": 164, "add": 44, "remove": 0, "capacity": 100000,
            "entries": [{"op": "+", "table": 0, "priority": 7, "match": "in_port=1", "actions": "drop", "owner": "b"}],
        }
    },
}  # fmt: skip


SETTINGS = {
    "sw1": {
        "add": 1, "change": 1, "remove": 7, "more": 7, "notes": ["the open transaction t1 holds it"],
        "changes": [
            {"op": "+", "path": "/vlans/vlan[120]/config/name", "has": None, "shall": "shop-app"},
            {"op": "~", "path": "/interfaces/interface[port1.0.1]/config/mtu", "has": "1500", "shall": "9216"},
        ],
    }
}  # fmt: skip


@pytest.fixture
def document(tmp_path: Path) -> str:
    path = tmp_path / "shop.json"
    path.write_text(json.dumps(DOCUMENT))
    return str(path)


def _other_network(call: Call) -> dict[str, Any]:
    return {**NODE, "network": call.params["node"].split("-")[1]}


def test_nodes_of_several_networks_are_not_removed_in_one_call(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["node.show"] = _other_network
    result = ctl("node", "rm", "shop-app-1", "shop-db-1")
    assert result.exit_code == 3
    assert "shop/app, shop/db" in result.stderr
    assert ctl("node", "rm", "a", "b", "--count", "1").exit_code == 2
    assert service_calls(daemon) == []


def service_calls(daemon: FakeDaemon) -> list[dict[str, Any]]:
    return [params for method, params in daemon.calls if method == "service.call"]


@pytest.mark.parametrize(
    ("command", "service", "system"),
    [
        (["platform", "apply", "FILE"], "addPlatform", {"document": DOCUMENT}),
        (["platform", "rm", "shop"], "removePlatform", {"platform": "shop"}),
        (
            ["network", "scale", "app", "4"],
            "scaleNetwork",
            {"platform": "shop", "Network": {"name": "app", "count": 4}},
        ),
        (
            ["node", "add", "app"],
            "addNode",
            {"platform": "shop", "Network": {"name": "app", "Node": {"count": 1}}},
        ),
        (
            ["node", "add", "shop/app", "--count", "3"],
            "addNode",
            {"platform": "shop", "Network": {"name": "app", "Node": {"count": 3}}},
        ),
        (
            ["node", "add", "shop/app", "--name", "shop-app-7"],
            "addNode",
            {"platform": "shop", "Network": {"name": "app", "Node": {"name": "shop-app-7"}}},
        ),
        (
            ["node", "rm", "shop-app-1"],
            "removeNode",
            {"platform": "shop", "Network": {"name": "app", "Node": {"name": "shop-app-1"}}},
        ),
        (
            ["node", "rm", "shop-app-1", "shop-app-2"],
            "removeNode",
            {"platform": "shop", "Network": {"name": "app", "Node": {"name": ["shop-app-1", "shop-app-2"]}}},
        ),
        (
            ["node", "rm", "app", "--count", "2"],
            "removeNode",
            {"platform": "shop", "Network": {"name": "app", "Node": {"count": 2}}},
        ),
        (["inventory", "apply", "FILE"], "setInventory", {"document": DOCUMENT}),
        (
            ["node", "weight", "shop-app-1", "0"],
            "weighNode",
            {"platform": "shop", "Network": {"name": "app", "Node": {"name": "shop-app-1", "weight": 0}}},
        ),
        (["switch", "maintenance", "sw1", "on"], "setMaintenance", {"Switch": {"name": "sw1", "maintenance": True}}),
        (
            ["switch", "maintenance", "sw1", "off", "--force"],
            "setMaintenance",
            {"Switch": {"name": "sw1", "maintenance": False, "force": True}},
        ),
    ],
)
def test_the_call_that_is_made(
    ctl: Ctl, daemon: FakeDaemon, document: str, command: list[str], service: str, system: dict[str, Any]
) -> None:
    daemon.answers.update({"service.call": DONE, "network.list": {"networks": [NETWORK]}, "node.show": NODE})
    command = [document if word == "FILE" else word for word in command]
    result = ctl(*command, "--id", "my-call", "--index", "41", "--atomic")
    assert result.exit_code == 0
    assert service_calls(daemon) == [
        {
            "SYSServiceID": service,
            "id": "my-call",
            "data": [{"System": system}],
            "options": {"dryRun": False, "atomic": True, "index": 41},
        }
    ]
    assert "call my-call" in result.stderr
    assert "shop-app-1  admitted  h1  172.16.20.2" in result.stdout
    assert "done: 1 transaction committed; the state is at index 42" in result.stdout


@pytest.mark.parametrize("command", [["node", "weight", "shop-app-1", "1001"], ["switch", "maintenance", "sw1", "yes"]])
def test_what_no_call_could_mean_is_a_wrong_command_line(ctl: Ctl, daemon: FakeDaemon, command: list[str]) -> None:
    assert ctl(*command).exit_code == 2
    assert service_calls(daemon) == []


def test_an_id_is_made_and_printed(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = DONE
    first, second = (ctl("platform", "rm", "shop").stderr for _ in range(2))
    ids = [call["id"] for call in service_calls(daemon)]
    assert re.fullmatch(r"ctl-[0-9a-f]{10}", ids[0])
    assert ids[0] != ids[1]
    assert ids[0] in first
    assert ids[1] in second


def test_a_bad_id_is_a_usage_error(ctl: Ctl, daemon: FakeDaemon) -> None:
    assert ctl("platform", "rm", "shop", "--id", "a b").exit_code == 2
    assert ctl("node", "add", "app", "--name", "x", "--count", "2").exit_code == 2
    assert daemon.calls == []


def test_a_document_from_stdin(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = DONE
    assert ctl("platform", "apply", "-", input=json.dumps(DOCUMENT)).exit_code == 0
    assert service_calls(daemon)[0]["data"][0]["System"]["document"] == DOCUMENT


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"platform": "shop",\n "networks": }', "line 2, column 14"),
        ('{"platform": "a", "platform": "b"}', "the key 'platform' stands twice"),
        ("[]", "must hold a JSON object"),
        ('{"a": "\xff"}', "is no JSON"),
    ],
)
def test_what_is_no_document_is_refused_before_anything_is_sent(
    ctl: Ctl, daemon: FakeDaemon, tmp_path: Path, content: str, text: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content.encode("latin-1"))
    applied, planned = ctl("platform", "apply", str(path)), ctl("platform", "plan", str(path))
    assert (applied.exit_code, planned.exit_code) == (3, 255)
    assert text in applied.stderr
    assert daemon.calls == []
    assert ctl("platform", "apply", str(tmp_path / "none.json")).exit_code == 3


def faulty(_: Call) -> None:
    raise RpcFault(
        "invalid",
        "the service call is refused:\n  $.networks.db: db depends on itself",
        [
            {"path": "$.networks.app.scale.min", "found": 5, "expected": "at most 2",
             "message": "$.networks.app.scale.min: found 5, expected at most 2"},
            {"path": "$.networks.db", "expected": "no cycle", "message": "db depends on itself"},
        ],
    )  # fmt: skip


def test_faults_are_told_one_to_a_line(ctl: Ctl, daemon: FakeDaemon, document: str) -> None:
    daemon.answers["service.call"] = faulty
    for command, code in (("apply", 3), ("plan", 255)):
        result = ctl("platform", command, document)
        assert (result.exit_code, result.stdout) == (code, "")
        lines = result.stderr.splitlines()
        faults = ["  $.networks.app.scale.min: found 5, expected at most 2", "  $.networks.db: db depends on itself"]
        assert lines[-3:] == ["odysseyctl: the service call is refused", *faults]


def test_a_missing_permission_is_refused(ctl: Ctl, daemon: FakeDaemon) -> None:
    def forbidden(_: Call) -> None:
        raise RpcFault("forbidden", "publisher/grafana has no permission for removePlatform on shop")

    daemon.answers["service.call"] = forbidden
    result = ctl("platform", "rm", "shop")
    assert result.exit_code == 3
    assert "has no permission for removePlatform on shop" in result.stderr


def test_a_failed_call_tells_what_stays_and_how_to_go_on(ctl: Ctl, daemon: FakeDaemon) -> None:
    error = {"code": "aborted", "message": "add 2 nodes: h2 has no image shop-app:1"}
    daemon.answers["service.call"] = {**DONE, "id": "x", "state": "failed", "error": error}
    result = ctl("platform", "rm", "shop", "--id", "x")
    assert result.exit_code == 4
    assert "add 2 nodes: h2 has no image shop-app:1" in result.stderr
    assert "Committed and kept: c.1." in result.stderr
    assert "--id x" in result.stderr


def test_a_call_that_is_decided_but_not_confirmed(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = {**DONE, "state": "pending", "error": {"message": "decided, but h2 is away"}}
    result = ctl("platform", "rm", "shop")
    assert result.exit_code == 6
    assert "decided, but h2 is away" in result.stderr


def test_nothing_to_change(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = {"id": "x", "state": "done", "index": 42, "transactions": [], "nodes": []}
    result = ctl("network", "scale", "shop/app", "2")
    assert (result.exit_code, result.stdout) == (0, "nothing to change; the state is at index 42\n")


def telling(call: Call) -> dict[str, Any]:
    call.progress({"kind": "plan", "steps": [{"step": 1, "title": "add 1 node"}], "changes": CHANGES})
    call.progress({"kind": "tx", "id": "x.1", "step": 1, "title": "add 1 node", "state": "preparing"})
    call.progress({"kind": "tx", "id": "x.1", "step": 1, "title": "add 1 node", "state": "finished"})
    return DONE


def test_progress_without_a_terminal_is_lines_on_stderr(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = telling
    result = ctl("network", "scale", "shop/app", "3")
    assert "\x1b" not in result.stderr
    assert re.search(r"^\d\d:\d\d:\d\d plan: 1 step, 3 changes$", result.stderr, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d step 1/1: add 1 node: finished in ", result.stderr, re.MULTILINE)
    assert "step" not in result.stdout
    assert "step" not in ctl("network", "scale", "shop/app", "3", "-q").stderr


def test_json_keeps_progress_off_stdout(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = telling
    result = ctl("network", "scale", "shop/app", "3", "-o", "json")
    assert json.loads(result.stdout) == DONE
    assert "preparing" in result.stderr


def test_a_plan_of_no_change_exits_with_0(ctl: Ctl, daemon: FakeDaemon, document: str) -> None:
    daemon.answers["service.call"] = {"id": "x", "state": "planned", "plan": {"index": 41, "changes": [], "steps": []}}
    result = ctl("platform", "plan", document)
    assert (result.exit_code, result.stdout) == (0, "No change. The state is at index 41.\n")
    assert service_calls(daemon)[0]["options"] == {"dryRun": True, "atomic": False, "index": None}


def test_a_plan_of_some_change_exits_with_1(ctl: Ctl, daemon: FakeDaemon, document: str) -> None:
    daemon.answers["service.call"] = PLANNED
    result = ctl("platform", "plan", document)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        "+ node     shop-app-3  h1, 172.16.20.4",
        "~ network  shop/app    count 2 -> 3",
        "- node     shop-app-9",
    ]
    assert re.search(r"1 +add 1 node +admit +controller, h1", result.stdout)
    assert re.search(r"SWITCH +BEFORE +AFTER +\+ +- +CAPACITY\nsw1 +120 +164 +44 +0 +100000", result.stdout)
    assert "1 to add, 1 to change, 1 to remove." in lines
    assert lines[-1].startswith("Index 41: the same command with --index 41")
    assert "in_port=1" not in result.stdout


def test_a_plan_with_flows_shows_the_entries(ctl: Ctl, daemon: FakeDaemon, document: str) -> None:
    daemon.answers["service.call"] = PLANNED
    result = ctl("platform", "plan", document, "--flows")
    assert "+ table=0,priority=7,in_port=1 actions=drop  (b)" in result.stdout


def test_a_plan_counts_the_settings_of_switches_and_shows_each_when_asked(
    ctl: Ctl, daemon: FakeDaemon, document: str
) -> None:
    daemon.answers["service.call"] = {**PLANNED, "settings": SETTINGS, "netconf": True}
    result = ctl("platform", "plan", document)
    assert re.search(r"Switch settings by NETCONF\nSWITCH +\+ +~ +-\nsw1 +1 +1 +7\n", result.stdout)
    assert "sw1: the open transaction t1 holds it." in result.stderr and "vlan[120]" not in result.stdout
    result = ctl("platform", "plan", document, "--flows")
    assert "+ /vlans/vlan[120]/config/name = shop-app\n" in result.stdout
    assert "~ /interfaces/interface[port1.0.1]/config/mtu = 1500 -> 9216\n  and 7 more\n" in result.stdout


def test_a_plan_without_netconf_says_so(ctl: Ctl, daemon: FakeDaemon, document: str) -> None:
    daemon.answers["service.call"] = {**PLANNED, "settings": {}, "netconf": False}
    assert "odyssey-netconf is not connected" in ctl("platform", "plan", document).stderr


def test_a_plan_as_json_has_the_same_exit_code(ctl: Ctl, daemon: FakeDaemon, document: str) -> None:
    daemon.answers["service.call"] = PLANNED
    result = ctl("platform", "plan", document, "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, PLANNED)


def test_a_dry_run_of_any_change_is_a_plan(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["service.call"] = PLANNED
    result = ctl("network", "scale", "shop/app", "3", "--dry-run", "--flows")
    assert result.exit_code == 1
    assert "in_port=1" in result.stdout
    assert service_calls(daemon)[0]["options"]["dryRun"] is True


def test_what_the_switches_cannot_carry_is_an_error_of_the_plan(ctl: Ctl, daemon: FakeDaemon, document: str) -> None:
    refusals = [{"switch": "sw1", "message": "3100 entries, there is room for 3000"}]
    daemon.answers["service.call"] = {**PLANNED, "refusals": refusals}
    result = ctl("platform", "plan", document)
    assert result.exit_code == 255
    assert "sw1: 3100 entries, there is room for 3000" in result.stderr


def test_a_plan_without_the_controller_says_so(ctl: Ctl, daemon: FakeDaemon, document: str) -> None:
    daemon.answers["service.call"] = {**PLANNED, "switches": {}, "controller": False}
    result = ctl("platform", "plan", document)
    assert result.exit_code == 1
    assert "controller is not connected" in result.stderr


def test_a_plan_tells_what_the_switches_cannot_do(ctl: Ctl, daemon: FakeDaemon, document: str) -> None:
    notes = {"sw1": ["border edge: give the device 203.0.113.2 the static neighbour 203.0.113.1 at 02:fa:00:00:00:01"]}
    daemon.answers["service.call"] = {**PLANNED, "notes": notes}
    result = ctl("platform", "plan", document)
    assert result.exit_code == 1
    assert "sw1: border edge: give the device 203.0.113.2 the static neighbour" in " ".join(result.stderr.split())


def test_every_error_of_a_plan_exits_with_255(ctl: Ctl, daemon: FakeDaemon, document: str, tmp_path: Path) -> None:
    assert ctl("platform", "plan").exit_code == 255
    assert ctl("platform", "plan", document, "--nope").exit_code == 255
    assert ctl("--socket", str(tmp_path / "none"), "platform", "plan", document).exit_code == 255
    assert ctl("inventory", "plan", str(tmp_path / "none.json")).exit_code == 255
    assert ctl("platform", "plan", "--help").exit_code == 0


def test_a_lost_connection_is_found_again_and_the_same_id_repeated(ctl: Ctl, daemon: FakeDaemon) -> None:
    def cut_twice(call: Call) -> dict[str, Any]:
        call.progress({"kind": "message", "text": "working"})
        if len(service_calls(daemon)) <= 2:
            raise Hangup
        return DONE

    daemon.answers["service.call"] = cut_twice
    result = ctl("network", "scale", "shop/app", "3")
    assert result.exit_code == 0
    ids = {call["id"] for call in service_calls(daemon)}
    assert (len(service_calls(daemon)), len(ids)) == (3, 1)
    assert result.stderr.count("connection to odysseyd lost") == 2
    assert result.stderr.count("connected again") == 2


def test_a_refusal_after_a_restart_is_tried_again(
    ctl: Ctl, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restarting(_: Call) -> dict[str, Any]:
        if len(service_calls(daemon)) == 1:
            raise Hangup
        if len(service_calls(daemon)) <= 3:
            raise RpcFault("refused", "the plan is refused")
        return DONE

    daemon.answers["service.call"] = restarting
    monkeypatch.setattr(submit, "RETURN_PAUSE", 0.01)
    result = ctl("network", "scale", "shop/app", "3")
    assert (result.exit_code, len(service_calls(daemon))) == (0, 4)
    assert result.stderr.count("hosts may not be back yet") == 1


def test_a_refusal_long_after_a_restart_is_believed(
    ctl: Ctl, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restarting(_: Call) -> dict[str, Any]:
        if len(service_calls(daemon)) == 1:
            raise Hangup
        raise RpcFault("refused", "the plan is refused")

    daemon.answers["service.call"] = restarting
    monkeypatch.setattr(submit, "RETURN_TIME", -1.0)
    assert ctl("network", "scale", "shop/app", "3").exit_code == 3


def test_a_daemon_that_does_not_come_back_is_given_up(ctl: Ctl, daemon: FakeDaemon) -> None:
    def gone(_: Call) -> None:
        daemon.path.unlink()
        raise Hangup

    daemon.answers["service.call"] = gone
    result = ctl("--reconnect", "1s", "network", "scale", "shop/app", "3", "--id", "mine")
    assert result.exit_code == 5
    assert "did not come back within 1.0 s" in result.stderr
    assert "odysseyctl call show mine" in result.stderr


def test_ctrl_c_stops_the_watching_and_not_the_work(daemon: FakeDaemon) -> None:
    def slow(call: Call) -> dict[str, Any]:
        call.progress({"kind": "message", "text": "working"})
        daemon.hold.wait(30)
        return DONE

    daemon.answers["service.call"] = slow
    process = start_ctl(
        daemon, "network", "scale", "shop/app", "3", "--id", "mine", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    seen = b""
    while b"working" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    daemon.hold.set()
    assert (process.returncode, out) == (130, b"")
    assert b"the work goes on in odysseyd" in err
    assert b"odysseyctl call show mine" in err
    assert b"Traceback" not in err
