# SPDX-License-Identifier: AGPL-3.0-or-later
"""odysseyd as a process that cannot start: one line that says why, and whether a restart may help."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from odyssey.security.ca import CertificateAuthority
from tests.imports import ROOT

CONFIG, FAILED = 78, 1


class Daemon:
    """The folders and the configuration of one odysseyd."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 1
        authority = CertificateAuthority.create(folder / "ca", "lab")
        authority.issue("orchestrator", "odysseyd", folder / "pki")
        authority.issue("agent", "h1", folder / "agent")

    async def ends(self, more: str = "", pki: str = "pki", limit: str = "") -> tuple[int, str]:
        """Its exit code and what it printed."""
        config = self.folder / "odysseyd.toml"
        config.write_text(
            f'[odysseyd]\ncluster = "lab"\nstate_dir = "{self.folder}/state"\npki_dir = "{self.folder}/{pki}"\n'
            f'ca_dir = "{self.folder}/ca"\ntls_listen = "127.0.0.1:{self.port}"\n{more}'
        )
        process = await asyncio.create_subprocess_shell(
            f"{limit} exec {sys.executable} -m odyssey.daemon --config {config}", cwd=ROOT,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode is not None
        told = [line for line in output.decode().splitlines() if line.startswith("odysseyd: ")]
        assert len(told) == 1 and "Traceback" not in output.decode(), output.decode()
        return process.returncode, told[0]


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


async def test_a_configuration_that_cannot_be_used(daemon: Daemon) -> None:
    code, told = await daemon.ends("[rdmp]\nwarp = 9\n")
    assert (code, "unknown limit 'warp'" in told) == (CONFIG, True)
    code, told = await daemon.ends('[roles.x]\nsubjects = ["alice"]\nallow = []\n')
    assert (code, "must look like operator/alice" in told) == (CONFIG, True)


@pytest.mark.parametrize(
    ("more", "text"),
    [('log_level = "verbose"\n', "must be one of DEBUG"), ('[roles]\noperator = "x"\n', "role operator: found 'x'")],
)
async def test_every_wrong_value_is_told_in_one_line(daemon: Daemon, more: str, text: str) -> None:
    code, told = await daemon.ends(more)
    assert (code, text in told) == (CONFIG, True)


async def test_a_certificate_that_is_missing_or_of_another_role(daemon: Daemon) -> None:
    code, told = await daemon.ends(pki="none")
    assert (code, "odysseyctl ca issue orchestrator NAME --out" in told) == (CONFIG, True)
    code, told = await daemon.ends(pki="agent")
    assert (code, "must have the role orchestrator" in told) == (CONFIG, True)


async def test_an_address_in_use_may_be_free_later(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon.port = taken.getsockname()[1]
        code, told = await daemon.ends()
    assert (code, f"{daemon.port}" in told) == (FAILED, True)


async def test_a_full_disk_may_have_room_later(daemon: Daemon) -> None:
    code, told = await daemon.ends(limit="ulimit -f 1;")
    assert code == FAILED and "odyssey.db: cannot be opened" in told
