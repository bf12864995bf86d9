# SPDX-License-Identifier: AGPL-3.0-or-later
"""The configuration file of odyssey-netconf, and its backups."""

from __future__ import annotations

import itertools
import re
import stat
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.netconf import config as module
from controller.netconf.backups import Backups
from controller.netconf.config import Config, ConfigError, load
from controller.netconf.session import NetconfError

MINIMAL = '[netconf]\norchestrators = ["tls:192.0.2.1:7420"]\n'


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "netconf.toml"
    file.write_text(text)
    return file


def test_all_settings_have_defaults_but_the_orchestrators(tmp_path: Path) -> None:
    found = load(written(tmp_path, MINIMAL + "confirm_seconds = 20\n[rdmp]\nreconnect_max = 1\n"))
    assert [str(endpoint) for endpoint in found.orchestrators] == ["tls:192.0.2.1:7420"]
    assert found.confirm_seconds == 20 and found.mend_drift is True and found.rdmp.reconnect_max == 1.0


def test_the_documented_file_names_every_setting_with_its_default(tmp_path: Path) -> None:
    example = str(module.__doc__).split("```toml\n")[1].split("```")[0]
    found = load(written(tmp_path, example))
    assert found == load(written(tmp_path, MINIMAL))
    assert {item.name for item in fields(Config)} == {*re.findall(r"^(\w+) =", example, re.MULTILINE), "rdmp"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "orchestrators is required"),
        ("[controller]\n", r"unknown table \[controller\]"),
        (MINIMAL + "speed = 3\n", "unknown key speed; known are orchestrators"),
        (MINIMAL + "verify_seconds = 0\n", "verify_seconds: found 0, must be a number above 0"),
        (MINIMAL + "confirm_seconds = 1.5\n", "confirm_seconds: found 1.5, must be a whole number"),
        (MINIMAL + "lock_attempts = true\n", "must be a whole number of at least 1"),
        (MINIMAL + 'state_dir = "here"\n', "must be an absolute path"),
        (MINIMAL + "mend_drift = 1\n", "must be true or false"),
        (MINIMAL + 'log_level = "LOUD"\n', "must be one of DEBUG"),
        (MINIMAL + "[rdmp]\nwarp = 9\n", "unknown limit 'warp'"),
        ("[netconf\n", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(written(tmp_path, text))


def test_the_first_backup_and_the_newest_are_kept(tmp_path: Path) -> None:
    times = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number) for number in itertools.count())
    backups = Backups(tmp_path, 2, lambda: next(times))
    names = [backups.keep("sw1", f"<data>{number}</data>") for number in range(5)]
    assert backups.names("sw1") == [names[0], *names[-2:]]
    assert backups.read("sw1", names[-1]).text == "4"
    assert stat.S_IMODE((tmp_path / "sw1" / names[0]).stat().st_mode) == 0o600
    assert backups.names("sw2") == []


@pytest.mark.parametrize("name", ["", "../sw2/x.xml", "/etc/passwd", "20260101T000000.000000Z.xml"])
def test_a_backup_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NetconfError, match="there is no backup"):
        Backups(tmp_path, 2).read("sw1", name)


def test_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    backups = Backups(tmp_path, 2)
    name = backups.keep("sw1", "<data>")
    with pytest.raises(NetconfError, match="cannot be read"):
        backups.read("sw1", name)
