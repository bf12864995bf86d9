# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agents.files import Claim, NodeFiles
from agents.secrets import SecretError, Secrets, filesystem
from tests.unit.agents.documents import neighbours, spec


@pytest.fixture
def files(tmp_path: Path) -> NodeFiles:
    return NodeFiles(tmp_path / "nodes")


def test_a_claim_is_kept_and_replaced(files: NodeFiles, tmp_path: Path) -> None:
    assert files.claimed("shop-app-3") is None
    files.claim(Claim("shop-app-3", "t1", "sandbox1"))
    assert NodeFiles(tmp_path / "nodes").claimed("shop-app-3") == Claim("shop-app-3", "t1", "sandbox1")
    files.claim(Claim("shop-app-3", "t2"))
    assert files.claimed("shop-app-3") == Claim("shop-app-3", "t2", None)


def test_claims_tell_which_vlan_interfaces_are_needed(files: NodeFiles, tmp_path: Path) -> None:
    files.claim(Claim("shop-app-3", "t1", None, frozenset({"eth0.120", "eth1.120"})))
    files.claim(Claim("shop-app-4", "t2", "sandbox1"))
    (tmp_path / "nodes/shop-app-5").mkdir()  # a folder whose claim was never written
    assert NodeFiles(tmp_path / "nodes").claims() == (
        Claim("shop-app-3", "t1", None, frozenset({"eth0.120", "eth1.120"})),
        Claim("shop-app-4", "t2", "sandbox1"),
    )


def test_a_claim_of_the_version_before_is_understood(files: NodeFiles, tmp_path: Path) -> None:
    (tmp_path / "nodes/shop-app-3").mkdir()
    (tmp_path / "nodes/shop-app-3/claim.json").write_text('{"node": "shop-app-3", "tx": "t1", "sandbox": null}')
    assert files.claimed("shop-app-3") == Claim("shop-app-3", "t1")


def test_both_addresses_of_a_node_have_its_name(files: NodeFiles) -> None:
    files.write(spec(address6="fd00:20::3"))
    hosts = files.hosts_file("shop-app-3").read_text().splitlines()
    assert hosts[1:] == ["172.16.20.3 shop-app-3 node", "fd00:20::3 shop-app-3 node"]


def test_what_the_container_sees(files: NodeFiles) -> None:
    files.write(spec(neighbours=neighbours("shop-app-3", 4)))
    assert files.hosts_file("shop-app-3").read_text() == "127.0.0.1 localhost\n172.16.20.3 shop-app-3 node\n"
    path = files.run_folder("shop-app-3") / "neighbours.json"
    assert json.loads(path.read_text())["revision"] == 4
    assert path.stat().st_mode & 0o777 == 0o644
    assert files.hosts_file("shop-app-3").parent.stat().st_mode & 0o777 == 0o700


def test_a_newer_neighbours_document_is_never_overwritten(files: NodeFiles) -> None:
    files.write(spec(neighbours=neighbours("shop-app-3", 4)))
    assert files.write_neighbours("shop-app-3", neighbours("shop-app-3", 5))
    assert not files.write_neighbours("shop-app-3", neighbours("shop-app-3", 4))
    files.write(spec(neighbours=neighbours("shop-app-3", 1)))
    path = files.run_folder("shop-app-3") / "neighbours.json"
    assert json.loads(path.read_text())["revision"] == 5


def test_a_torn_neighbours_document_is_replaced(files: NodeFiles) -> None:
    files.write(spec())
    path = files.run_folder("shop-app-3") / "neighbours.json"
    path.write_text('{"revision"')
    assert files.write_neighbours("shop-app-3", neighbours("shop-app-3", 1))


def test_files_that_are_bound_stay_the_same_file(files: NodeFiles) -> None:
    files.write(spec())
    before = files.hosts_file("shop-app-3").stat().st_ino
    files.write(spec())
    assert files.hosts_file("shop-app-3").stat().st_ino == before


def test_everything_goes(files: NodeFiles, tmp_path: Path) -> None:
    files.claim(Claim("shop-app-3", "t1"))
    files.write(spec())
    files.remove("shop-app-3")
    files.remove("shop-app-3")
    assert list((tmp_path / "nodes").iterdir()) == []


MOUNTS = """22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 0:25 / /run rw,nosuid - tmpfs tmpfs rw
31 30 0:26 / /run/user\\0401 rw - fuse x rw
32 22 0:27 / /srv rw - xfs x rw
33 22 0:28 / /srv rw - tmpfs x rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/etc", "ext4"), ("/run/odyssey", "tmpfs"), ("/run/user 1/x", "fuse"), ("/runner", "ext4"), ("/srv/x", "tmpfs")],
)
def test_the_filesystem_of_a_path(path: str, kind: str) -> None:
    assert filesystem(Path(path), MOUNTS) == kind


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    return Secrets(tmp_path / "source", tmp_path / "target")


def _secret(folder: Path, name: str, mode: int = 0o600, value: str = "s3cret") -> Path:
    path = folder / "source" / name
    path.write_text(value)
    path.chmod(mode)
    return path


def test_a_secret_is_copied_and_forgotten(secrets: Secrets, tmp_path: Path) -> None:
    source = _secret(tmp_path, "key")
    (copy,) = secrets.place("shop-app-3", {"key": "/run/secrets/key"}).values()
    assert copy.read_text() == "s3cret" and copy.stat().st_mode & 0o777 == 0o444
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    before = copy.stat().st_ino
    assert secrets.place("shop-app-3", {"key": "/run/secrets/key"})["/run/secrets/key"].stat().st_ino == before
    source.write_text("new")
    assert secrets.place("shop-app-3", {"key": "/run/secrets/key"})["/run/secrets/key"].read_text() == "new"
    secrets.remove("shop-app-3")
    assert list((tmp_path / "target").iterdir()) == []


def test_a_secret_that_cannot_be_used_is_explained_without_its_value(secrets: Secrets, tmp_path: Path) -> None:
    _secret(tmp_path, "open", 0o640)
    _secret(tmp_path, "large", value="x" * 70000)
    _secret(tmp_path, "real")
    os.symlink("real", tmp_path / "source/link")
    (tmp_path / "source/folder").mkdir(mode=0o700)
    names = dict.fromkeys(("missing", "open", "large", "link", "folder", "real"), "/x")
    reasons = secrets.reasons(names)
    assert len(reasons) == 5
    missing, mode, large, link, folder = reasons
    assert "missing is missing; write the value there with: install -m 0600" in missing
    assert "has mode 0640; run: chmod 0600" in mode
    assert "is larger than 65536 bytes" in large
    assert "cannot open" in link and "is not a regular file" in folder
    assert "s3cret" not in str(reasons)
    with pytest.raises(SecretError):
        secrets.place("shop-app-3", names)
