# SPDX-License-Identifier: AGPL-3.0-or-later
"""Commands that change nothing: what is asked, and how the answer looks as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Ctl
from tests.unit.cli.fake import FakeDaemon, RpcFault

NODE = {
    "node": "shop-app-1", "platform": "shop", "network": "app", "host": "h1", "address": "172.16.20.2",
    "mac": "02:00:ac:10:14:02", "phase": "admitted", "state": "running", "healthy": True, "image": "shop-app:1",
}  # fmt: skip
NETWORK = {
    "platform": "shop", "network": "app", "subnet": "172.16.20.0/24", "vlan": 120, "image": "shop-app:1", "min": 1,
    "max": 6, "count": 2, "standby": 1, "admitted": 2, "draining": 0,
}  # fmt: skip
TX = {
    "id": "c.1", "seq": 7, "state": "committed", "finished": True, "participants": {"h1": {}, "controller": {}},
    "stages": ["admit", "neighbours"], "created": "2026-11-23T10:00:00Z", "reason": None,
}  # fmt: skip
HOST = {
    "host": "h1", "connected": True, "since": "2026-11-23T10:00:00Z", "labels": {"zone": "a"},
    "capacity": {"cpus": 4, "memoryMiB": 4096, "nodes": 50}, "used": {"nodes": 1, "cpus": 0.5, "memoryMiB": 128},
    "nodes": ["shop-app-1"], "inventory": True,
}  # fmt: skip
SWITCH = {
    "switch": "sw1", "datapathId": "0000000000000001", "profile": "openvswitch", "connected": True, "entries": 120,
    "groups": 3, "drift": 0, "capacity": 100000,
}  # fmt: skip
ENTRY = {
    "table": 10, "priority": 100, "match": {"reg0": 1}, "actions": ["goto:20"], "packets": 5, "bytes": 490,
    "owner": "policy/shop/lb/app", "cookie": "0x0d02",
}  # fmt: skip

ANSWERS: dict[str, Any] = {
    "platform.list": {"platforms": [{"platform": "shop", "networks": ["app", "db", "lb"], "nodes": 5}]},
    "platform.show": {
        "platform": "shop", "document": {"platform": "shop", "networks": {}}, "networks": [NETWORK], "nodes": [NODE]
    },
    "network.list": {"networks": [NETWORK]},
    "node.list": {"nodes": [NODE]},
    "node.show": {**NODE, "observed": {"state": "running", "container": "abc"}},
    "node.logs": {"text": "line 1\nline 2\n"},
    "host.list": {"hosts": [HOST]},
    "host.show": {**HOST, "observed": {"pool": 2}},
    "inventory.show": {
        "document": {
            "cluster": "lab",
            "fabric": {"mac": "02:fa:00:00:00:01", "mtu": 1500, "switches": {"sw1": {"datapathId": "1"}}},
            "hosts": {"h1": {"attachments": [{"nic": "eth0", "switch": "sw1", "port": 1}]}},
        }
    },
    "switch.list": {"controller": True, "switches": [SWITCH]},
    "switch.flows": {"entries": [ENTRY]},
    "tx.list": {"transactions": [TX]},
    "tx.show": {**TX, "done": {"admit": ["controller"]}, "changes": {"node/shop-app-1": {"phase": "admitted"}}},
    "call.show": {
        "id": "c", "state": "done", "service": "addNode", "index": 9, "transactions": [TX], "nodes": [NODE]
    },
    "status": {
        "cluster": "lab", "epoch": 3, "incarnation": "i1", "index": 41,
        "peers": [{"name": "h1", "role": "agent", "since": "2026-11-23T10:00:00Z", "address": "192.0.2.11"}],
        "transactions": {"open": 0, "committed": 7, "aborted": 1, "inDoubt": 0},
    },
}  # fmt: skip

COMMANDS = [
    (["platform", "ls"], "platform.list", {}, ["PLATFORM", "shop", "app, db, lb", "5"]),
    (["platform", "show", "shop"], "platform.show", {"platform": "shop"}, ["shop", "172.16.20.0/24", "shop-app-1"]),
    (["network", "ls"], "network.list", {}, ["SUBNET", "172.16.20.0/24", "120"]),
    (["network", "ls", "--platform", "shop"], "network.list", {"platform": "shop"}, ["app"]),
    (["network", "show", "shop/app"], "node.list", {"platform": "shop", "network": "app"}, ["subnet", "shop-app-1"]),
    (["node", "ls"], "node.list", {}, ["ADDRESS", "172.16.20.2", "running", "yes"]),
    (["node", "ls", "app"], "node.list", {"platform": "shop", "network": "app"}, ["shop-app-1"]),
    (["node", "show", "shop-app-1"], "node.show", {"node": "shop-app-1"}, ["02:00:ac:10:14:02", '"container": "abc"']),
    (["node", "logs", "shop-app-1"], "node.logs", {"node": "shop-app-1", "tail": 100}, ["line 1\nline 2\n"]),
    (["host", "ls"], "host.list", {}, ["zone=a", "1/50", "0.5/4", "128/4096"]),
    (["host", "show", "h1"], "host.show", {"host": "h1"}, ["h1", '"pool": 2']),
    (["inventory", "show"], "inventory.show", {}, ["02:fa:00:00:00:01", "eth0 to sw1:1"]),
    (["switch", "ls"], "switch.list", {}, ["sw1", "openvswitch", "120", "100000"]),
    (["switch", "flows", "sw1"], "switch.flows", {"switch": "sw1"}, ["reg0=1", "goto:20", "policy/shop/lb/app"]),
    (["switch", "flows", "sw1", "--owner", "o"], "switch.flows", {"switch": "sw1", "owner": "o"}, ["490"]),
    (["tx", "ls"], "tx.list", {}, ["c.1", "committed", "admit, neighbours", "controller, h1"]),
    (["tx", "ls", "--state", "aborted"], "tx.list", {"state": "aborted"}, ["c.1"]),
    (["tx", "show", "c.1"], "tx.show", {"id": "c.1"}, ["c.1", "node/shop-app-1"]),
    (["call", "show", "c"], "call.show", {"id": "c"}, ["addNode", "c.1", "shop-app-1"]),
    (["status"], "status", {}, ["lab", "41", "7 committed", "h1", "192.0.2.11"]),
]
IDS = [" ".join(command) for command, *_ in COMMANDS]


@pytest.mark.parametrize(("command", "method", "params", "texts"), COMMANDS, ids=IDS)
def test_tables(
    ctl: Ctl, daemon: FakeDaemon, command: list[str], method: str, params: dict[str, Any], texts: list[str]
) -> None:
    daemon.answers.update(ANSWERS)
    result = ctl(*command)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (method, params) in daemon.calls
    for text in texts:
        assert text in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(("command", "method", "params", "texts"), COMMANDS, ids=IDS)
def test_json(
    ctl: Ctl, daemon: FakeDaemon, command: list[str], method: str, params: dict[str, Any], texts: list[str]
) -> None:
    daemon.answers.update(ANSWERS)
    result = ctl(*command, "-o", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert isinstance(json.loads(result.stdout), dict)
    first = ctl("-o", "json", *command)
    assert first.stdout == result.stdout


def test_json_is_what_odysseyd_answered(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers.update(ANSWERS)
    assert json.loads(ctl("node", "ls", "-o", "json").stdout) == ANSWERS["node.list"]
    assert json.loads(ctl("inventory", "show", "-o", "json").stdout) == ANSWERS["inventory.show"]["document"]
    assert json.loads(ctl("platform", "show", "shop", "--document").stdout) == {"platform": "shop", "networks": {}}


@pytest.mark.parametrize(
    ("command", "method", "key"),
    [
        (["platform", "ls"], "platform.list", "platforms"),
        (["node", "ls"], "node.list", "nodes"),
        (["host", "ls"], "host.list", "hosts"),
        (["switch", "ls"], "switch.list", "switches"),
        (["tx", "ls"], "tx.list", "transactions"),
    ],
)
def test_nothing_to_list_is_a_message_and_no_data(
    ctl: Ctl, daemon: FakeDaemon, command: list[str], method: str, key: str
) -> None:
    daemon.answers[method] = {key: []}
    result = ctl(*command)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("there is no ")


def test_an_unknown_name_is_refused_with_the_daemons_words(ctl: Ctl, daemon: FakeDaemon) -> None:
    def absent(_: Any) -> None:
        raise RpcFault("not_found", "there is no node nope (odysseyctl node ls)")

    daemon.answers["node.show"] = absent
    result = ctl("node", "show", "nope")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "odysseyctl: there is no node nope (odysseyctl node ls)\n"


def test_an_internal_error_is_a_failure(ctl: Ctl, daemon: FakeDaemon) -> None:
    def broken(_: Any) -> None:
        raise RpcFault("internal", "something broke")

    daemon.answers["status"] = broken
    assert ctl("status").exit_code == 4


def test_a_network_name_must_be_unambiguous(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["network.list"] = {"networks": [NETWORK, {**NETWORK, "platform": "other"}]}
    result = ctl("node", "add", "app")
    assert result.exit_code == 3
    assert "shop/app, other/app" in result.stderr
    assert ctl("node", "add", "nope").exit_code == 3


@pytest.mark.parametrize(
    ("state", "code"), [("done", 0), ("failed", 4), ("interrupted", 4), ("pending", 6), ("running", 6)]
)
def test_call_show_exits_as_the_call_did(ctl: Ctl, daemon: FakeDaemon, state: str, code: int) -> None:
    answer = {"id": "c", "state": state, "transactions": [], "error": {"code": "aborted", "message": "h2: no image"}}
    daemon.answers["call.show"] = answer
    result = ctl("call", "show", "c")
    assert result.exit_code == code
    assert "h2: no image" in result.stdout


def test_an_absent_controller_is_told(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["switch.list"] = {"controller": False, "switches": [SWITCH]}
    assert "controller is not connected" in ctl("switch", "ls").stderr


def test_no_daemon_is_told_with_what_to_do(ctl: Ctl, tmp_path: Path) -> None:
    result = ctl("--socket", str(tmp_path / "none.sock"), "status")
    assert result.exit_code == 5
    assert "cannot reach odysseyd at unix:" in result.stderr
    assert "No such file or directory" in result.stderr
    assert "--socket PATH" in result.stderr


def test_logs_are_printed_as_they_are(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["node.logs"] = {"text": "no newline at the end"}
    assert ctl("node", "logs", "n", "--tail", "5").stdout == "no newline at the end\n"
    assert daemon.calls[-1] == ("node.logs", {"node": "n", "tail": 5})


def test_wrong_usage_exits_with_2(ctl: Ctl) -> None:
    for arguments in (["nope"], ["node", "show"], ["network", "scale", "app", "many"], ["-o", "xml", "status"]):
        assert ctl(*arguments).exit_code == 2
