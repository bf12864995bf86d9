# SPDX-License-Identifier: AGPL-3.0-or-later
"""The controller's configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.config import ConfigError, load

MINIMAL = '[controller]\norchestrators = ["tls:192.0.2.1:7420"]\n'


def read(tmp_path: Path, text: str) -> object:
    file = tmp_path / "controller.toml"
    file.write_text(text)
    return load(file)


def test_all_settings_have_defaults_but_the_orchestrators(tmp_path: Path) -> None:
    file = tmp_path / "controller.toml"
    file.write_text(MINIMAL + 'openflow_listen = "[::]:6654"\nverify_seconds = 5\n[rdmp]\nreconnect_max = 1\n')
    config = load(file)
    assert [str(endpoint) for endpoint in config.orchestrators] == ["tls:192.0.2.1:7420"]
    assert config.openflow_listen == ("::", 6654)
    assert config.verify_seconds == 5.0 and config.allow_absent_switches is False
    assert config.rdmp.reconnect_max == 1.0
    assert config.metrics_listen is None, "nobody is told anything unless it is asked for"
    file.write_text(MINIMAL + 'metrics_listen = "127.0.0.1:9464"\n')
    assert load(file).metrics_listen == ("127.0.0.1", 9464)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "orchestrators is required"),
        ("[other]\n", r"unknown table \[other\]"),
        (MINIMAL + "speed = 3\n", "unknown key speed; known are orchestrators"),
        (MINIMAL + "verify_seconds = 0\n", "verify_seconds: found 0, must be a number above 0"),
        (MINIMAL + 'openflow_listen = "6653"\n', "must be ADDRESS:PORT"),
        (MINIMAL + 'metrics_listen = true\n', "metrics_listen: found True, must be ADDRESS:PORT"),
        (MINIMAL + 'state_dir = "here"\n', "must be an absolute path"),
        (MINIMAL + "allow_absent_switches = 1\n", "must be true or false"),
        (MINIMAL + 'log_level = "LOUD"\n', "must be one of DEBUG"),
        (MINIMAL.replace("tls:", "ftp:"), "ftp:192.0.2.1:7420"),
        ("[controller]\norchestrators = []\n", "a list of endpoints"),
        (MINIMAL + "[rdmp]\nwarp = 9\n", "unknown limit 'warp'"),
        ("[controller\n", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)
