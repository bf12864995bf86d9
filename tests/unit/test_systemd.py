# SPDX-License-Identifier: AGPL-3.0-or-later
"""The systemd units are understood by systemd, and the daemons without root have little to attack."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.imports import ROOT

UNITS = sorted((ROOT / "systemd").glob("*.service"))
EXPOSURE = {
    "odysseyd.service": 1.5,
    "odyssey-controller.service": 1.5,
    "odyssey-netconf.service": 1.5,
    "odyssey-agent.service": 6.4,
}
"""What `systemd-analyze security` may give at most (0 to 10). The agent works on namespaces and mounts as root."""


def analyze(*arguments: str) -> str:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    result = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return result.stdout + result.stderr


def test_every_unit_has_a_limit() -> None:
    assert {unit.name for unit in UNITS} == set(EXPOSURE)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_no_fault_in_a_unit(unit: Path, tmp_path: Path) -> None:
    installed = tmp_path / unit.name
    installed.write_text(re.sub(r"/usr/bin/odyssey[a-z-]*", "/bin/true", unit.read_text(encoding="utf-8")))
    # Other packages' units are read too and have their own warnings.
    told = [line for line in analyze("verify", str(installed)).splitlines() if unit.stem in line]
    assert told == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_exposure_of_a_unit_stays_below_its_limit(unit: Path) -> None:
    report = analyze("security", "--offline=true", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert found is not None, report
    assert float(found.group(1)) <= EXPOSURE[unit.name]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_a_script_of_the_package(unit: Path) -> None:
    found = re.search(r"^ExecStart=/usr/bin/(\S+)", unit.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(rf"^{found.group(1)} = ", project, re.MULTILINE)
