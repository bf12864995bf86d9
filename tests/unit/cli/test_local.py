# SPDX-License-Identifier: AGPL-3.0-or-later
"""What odysseyctl does by itself: finding odysseyd, joining hosts, the CA, the lab, completion, help."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import odyssey.lab
from odyssey.cli.connection import LAB_SOCKET, ConnectionOptions, default_socket
from odyssey.cli.exits import Exit, Failure
from odyssey.cli.program import program
from odyssey.security.ca import CertificateAuthority
from tests.unit.cli.conftest import Ctl
from tests.unit.cli.fake import FakeDaemon

TOKEN = f"ODY1-{'ab' * 32}-{'A' * 32}"


def run(*arguments: str, **more: Any) -> Result:
    result = CliRunner().invoke(program, arguments, **more)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# Where odysseyd is


def test_the_labs_socket_is_used_when_the_lab_is_named(tmp_path: Path) -> None:
    assert default_socket({"ODYSSEY_LAB": str(tmp_path)}) == tmp_path / LAB_SOCKET


def test_without_a_lab_it_is_the_systems_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("odyssey.cli.connection.LAB_DIRECTORY", tmp_path)
    monkeypatch.setattr("odyssey.cli.connection.SYSTEM_SOCKET", tmp_path / "system.sock")
    assert default_socket({}) == tmp_path / "system.sock"
    (tmp_path / LAB_SOCKET).parent.mkdir()
    (tmp_path / LAB_SOCKET).touch()
    assert default_socket({}) == tmp_path / LAB_SOCKET
    (tmp_path / "system.sock").touch()
    assert default_socket({}) == tmp_path / "system.sock"


def test_a_server_needs_a_certificate(tmp_path: Path) -> None:
    files = CertificateAuthority.create(tmp_path / "ca", "lab").issue("operator", "alice", tmp_path / "pki")
    target = ConnectionOptions(server="192.0.2.1:7420", pki=str(tmp_path / "pki")).target()
    assert str(target.endpoint) == "tls:192.0.2.1:7420"
    assert target.tls is not None
    assert (target.tls.cert, target.tls.key, target.tls.ca) == (files.cert, files.key, files.ca)
    (tmp_path / "pki" / "key.pem").unlink()
    with pytest.raises(Failure, match=r"key\.pem is missing") as failed:
        ConnectionOptions(server="192.0.2.1:7420", pki=str(tmp_path / "pki")).target()
    assert failed.value.exit_code == Exit.USAGE


@pytest.mark.parametrize("server", ["192.0.2.1", "host:port", ":7420"])
def test_a_malformed_server_is_a_usage_error(server: str) -> None:
    assert run("--server", server, "--pki", "/nowhere", "status").exit_code == 2


def test_the_command_line_beats_the_environment(daemon: FakeDaemon) -> None:
    daemon.answers["platform.list"] = {"platforms": []}
    environment = {"ODYSSEYCTL_SERVER": "192.0.2.1:7420"}
    assert run("--socket", str(daemon.path), "platform", "ls", env=environment).exit_code == 0
    assert run("platform", "ls", env={"ODYSSEYCTL_SOCKET": str(daemon.path)}).exit_code == 0
    result = run("platform", "ls", env={**environment, "ODYSSEYCTL_SOCKET": str(daemon.path)})
    assert (result.exit_code, "exclude each other" in result.stderr) == (2, True)


# Joining


def created(call: Any) -> dict[str, Any]:
    return {
        "token": TOKEN,
        "expires": time.time() + call.params["ttl"],
        **{key: call.params[key] for key in ("role", "name")},
    }


def test_join_prints_the_exact_command(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["token.create"] = lambda call: {**created(call), "enrol": "192.0.2.1:7421"}
    result = ctl("host", "join", "h1")
    words = ["odyssey-agent", "join", "--server", "192.0.2.1:7421", "--name", "h1"]
    expected = [f"ODYSSEY_TOKEN={TOKEN}", *words]
    assert (result.exit_code, shlex.split(result.stdout)) == (0, expected)
    assert "On h1, as root, within 59 min" in result.stderr
    assert daemon.calls == [("token.create", {"role": "agent", "name": "h1", "ttl": 3600.0})]


def test_join_as_json(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["token.create"] = created
    arguments = ("host", "join", "c1", "--role", "controller", "--ttl", "2d", "--enrol", "o1:7421", "-o", "json")
    answer = json.loads(ctl(*arguments).stdout)
    assert (answer["token"], answer["server"], answer["role"]) == (TOKEN, "o1:7421", "controller")
    assert answer["command"].endswith("--role controller")
    assert daemon.calls[0][1]["ttl"] == 172800.0


def test_join_tells_when_it_does_not_know_the_address(ctl: Ctl, daemon: FakeDaemon) -> None:
    daemon.answers["token.create"] = lambda call: {**created(call), "enrol": "0.0.0.0:7421"}
    result = ctl("host", "join", "h1")
    assert "--server HOST:7421" in result.stdout
    assert "--enrol HOST:PORT fills it in" in result.stderr


def test_a_bad_duration_is_a_usage_error(ctl: Ctl) -> None:
    assert ctl("host", "join", "h1", "--ttl", "soon").exit_code == 2


# The CA


def test_the_life_of_a_ca(tmp_path: Path) -> None:
    folder = str(tmp_path / "ca")
    made = run("ca", "init", "--cluster", "lab", "--dir", folder, "-o", "json")
    assert made.exit_code == 0
    authority = CertificateAuthority.load(tmp_path / "ca")
    assert json.loads(made.stdout)["fingerprint"] == authority.fingerprint
    assert run("ca", "init", "--cluster", "lab", "--dir", folder).exit_code == 3
    shown = run("ca", "show", env={"ODYSSEYCTL_CA": folder})
    assert authority.fingerprint in shown.stdout
    issued = run("ca", "issue", "operator", "alice", "--out", str(tmp_path / "alice"), "--dir", folder, "-o", "json")
    assert json.loads(issued.stdout)["identity"] == "odyssey://lab/operator/alice"
    assert (tmp_path / "alice" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_what_the_ca_refuses(tmp_path: Path) -> None:
    folder = str(tmp_path / "ca")
    assert run("ca", "show", "--dir", folder).exit_code == 3
    assert run("ca", "init", "--cluster", "No Such", "--dir", folder).exit_code == 3
    run("ca", "init", "--cluster", "lab", "--dir", folder)
    assert run("ca", "issue", "king", "a", "--out", folder, "--dir", folder).exit_code == 2
    result = run("ca", "issue", "agent", "../a", "--out", str(tmp_path / "x"), "--dir", folder)
    assert (result.exit_code, "is not allowed" in result.stderr) == (3, True)
    assert run("ca", "issue", "agent", "a", "--host", "b\xe4r", "--out", folder, "--dir", folder).exit_code == 3


# The lab


@dataclass
class FakePart:
    name: str
    up: bool
    detail: str


@dataclass
class FakeStatus:
    directory: Path
    parts: tuple[FakePart, ...]

    @property
    def up(self) -> bool:
        return all(part.up for part in self.parts)


class FakeLab:
    """Stands for the lab, which has tests of its own."""

    parts: tuple[FakePart, ...] = (FakePart("h1", True, "dockerd"), FakePart("sw1", False, "no switch"))
    done: list[str] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.settings = odyssey.lab.Settings()

    def up(self, progress: Any) -> None:
        progress("switches are up")
        self.done.append("up")

    def down(self, *, wipe: bool, progress: Any) -> None:
        progress("engines are down")
        self.done.append(f"down {wipe}")

    def status(self) -> FakeStatus:
        return FakeStatus(self.settings.directory, self.parts)


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeLab]]:
    monkeypatch.setattr(odyssey.lab, "Lab", FakeLab)
    FakeLab.done = []
    yield FakeLab


def test_the_lab_goes_up_and_down(lab: type[FakeLab]) -> None:
    up = run("lab", "up")
    assert (up.exit_code, up.stderr) == (0, "switches are up\n")
    assert up.stdout.startswith("the lab is up in /var/lib/odyssey-lab")
    assert json.loads(run("lab", "down", "--wipe", "-o", "json").stdout)["wiped"] is True
    assert lab.done == ["up", "down True"]


def test_the_status_of_the_lab(lab: type[FakeLab]) -> None:
    result = run("lab", "status")
    assert result.exit_code == 4
    assert result.stdout.splitlines() == ["PART  UP   DETAIL", "h1    yes  dockerd", "sw1   no   no switch"]
    assert json.loads(run("lab", "status", "-o", "json").stdout)["parts"][1]["up"] is False


def test_an_error_of_the_lab_is_told(lab: type[FakeLab], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: FakeLab, _progress: Any) -> None:
        raise odyssey.lab.LabError("no dockerd")

    monkeypatch.setattr(FakeLab, "up", broken)
    result = run("lab", "up")
    assert (result.exit_code, result.stderr) == (4, "odysseyctl: no dockerd\n")


# Completion and help


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_ODYSSEYCTL_COMPLETE={shell}_complete" in result.stdout


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize(("path", "command"), list(commands(program)), ids=str)
def test_every_command_has_help_and_json(path: tuple[str, ...], command: click.Command) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert command.help
    if not isinstance(command, click.Group) and path != ("completion",):
        assert "--output" in result.stdout


def test_the_exit_codes_are_told_and_documented() -> None:
    shown = run("--help").stdout
    document = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    for code in Exit:
        assert str(int(code)) in shown
        assert f"| {int(code)} |" in document


def test_the_version_is_told() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout.startswith("odysseyctl, version ")) == (0, True)
