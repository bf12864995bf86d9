# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from agents.config import ConfigError, load, parse

SMALL = '[agent]\norchestrators = ["tls:192.0.2.1:7420"]\n'


def test_defaults() -> None:
    config = parse(tomllib.loads(SMALL))
    assert str(config.orchestrators[0]) == "tls:192.0.2.1:7420"
    assert config.docker == "unix:///var/run/docker.sock" and config.pool == 2
    assert config.state_dir == Path("/var/lib/odyssey-agent")


def test_everything_can_be_set() -> None:
    text = SMALL + (
        'docker = "unix:///x"\nstate_dir = "/s"\nrun_dir = "/r"\nsecrets_dir = "/k"\npki_dir = "/p"\n'
        'log_level = "debug"\n'
        "[limits]\npool = 0\nparallel_starts = 8\nrestore_interval = 2\nstop_grace = 3.5\n"
        "[docker]\ncalls = 4\ntimeout = 10\npull_timeout = 60\n"
        '[workload]\ncapabilities = ["CHOWN"]\npids = 64\nlog_size = "1m"\nlog_files = 3\n'
        "[rdmp]\nheartbeat = 1.0\n"
    )
    config = parse(tomllib.loads(text))
    assert (config.pool, config.agent.parallel_starts, config.agent.stop_grace) == (0, 8, 3.5)
    assert (config.engine.calls, config.engine.pull_timeout) == (4, 60)
    assert config.workload.capabilities == ("CHOWN",) and config.workload.pids == 64
    assert config.rdmp.heartbeat == 1.0 and config.log_level == "DEBUG"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"\[agent\] orchestrators: found None, must be a list"),
        ("[agnet]\n", "file: unknown key agnet; known are agent, limits"),
        (SMALL + "dokcer = 1\n", r"\[agent\]: unknown key dokcer; known are orchestrators, docker"),
        ('[agent]\norchestrators = ["192.0.2.1"]\n', "is no endpoint; use unix:/path, tls:host:port"),
        (SMALL + 'state_dir = "here"\n', r"\[agent\] state_dir: found 'here', must be an absolute path"),
        (SMALL + 'log_level = "loud"\n', r"\[agent\] log_level: found 'LOUD', must be one of DEBUG"),
        (
            SMALL + "[limits]\nparallel_starts = 0\n",
            r"\[limits\] parallel_starts: found 0, must be a whole number above 0",
        ),
        (SMALL + "[limits]\nparallel_starts = true\n", "must be a whole number above 0"),
        (SMALL + "[limits]\nrestore_interval = -1\n", "must be a number above 0"),
        (SMALL + "[limits]\npool = -1\n", r"\[limits\] pool: found -1, must be a whole number, 0 or more"),
        (SMALL + "[limits]\nmany = 1\n", r"\[limits\]: unknown key many; known are parallel_starts"),
        (SMALL + "[docker]\ntimeout = 'x'\n", r"\[docker\] timeout: found 'x', must be a number above 0"),
        (SMALL + "[workload]\npids = 0\n", r"\[workload\] pids: found 0"),
        (SMALL + "[rdmp]\nspeed = 1\n", "unknown limit 'speed'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("=")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "bad.toml")
