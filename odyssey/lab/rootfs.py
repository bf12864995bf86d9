# SPDX-License-Identifier: AGPL-3.0-or-later
"""A root file system from Debian packages, without their maintainer scripts.

apt resolves the packages against an empty system and fetches them from the machine's own sources; each is unpacked, and
the few things that scripts would have done (users, links, byte code) are done here.
"""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odyssey.lab.shell import LabError, Progress, run

FETCH_TIMEOUT = 600.0
"""Seconds to fetch all packages: 2 from a near mirror."""

UNPACK_TIMEOUT = 120.0
"""Seconds to unpack one package."""

MERGED = ("bin", "sbin", "lib", "lib64")
"""Folders that are links into /usr, as Debian 12 has them."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What goes into the file system; see `examples/shop/images/base/rootfs.toml`."""

    packages: tuple[str, ...]
    without: frozenset[str]
    """Packages that apt wants but that are left out."""
    leave_out: tuple[str, ...]
    """Patterns of paths that are not unpacked (`tar --exclude`)."""
    directories: tuple[tuple[str, str, str], ...]
    """Path, mode in octal digits, owner."""
    users: Mapping[str, int]

    @classmethod
    def read(cls, file: Path) -> Recipe:
        """Read a recipe. Raises LabError that names the file."""
        try:
            document: Mapping[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
            return cls(
                packages=tuple(document["packages"]),
                without=frozenset(document["without"]),
                leave_out=tuple(document["leave_out"]),
                directories=tuple((path, mode, owner) for path, mode, owner in document["directories"]),
                users=dict(document["users"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LabError(f"{file}: cannot be used as a recipe: {error!r}") from error


def build(recipe: Recipe, work: Path, tar: Path, progress: Progress) -> None:
    """Make the tar file of a root file system; `work` is an empty directory that is used meanwhile."""
    archives = fetch(recipe.packages, work)
    chosen = [archive for archive in archives if archive.name.partition("_")[0] not in recipe.without]
    progress(f"{len(chosen)} Debian packages fetched")
    root = work / "root"
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for archive in chosen:
        _unpack(archive, root, recipe.leave_out)
    _configure(recipe, root)
    run(["tar", "--numeric-owner", "--sort=name", "-C", str(root), "-cf", str(tar), "."], timeout=UNPACK_TIMEOUT)
    progress(f"root file system of {tar.stat().st_size / 1e6:.0f} MB made")


def fetch(packages: tuple[str, ...], work: Path) -> list[Path]:
    """Fetch packages with all that they depend on into `work`; return the archives.

    The machine's own package lists are used; when they are missing or outdated they are fetched once.
    """
    archives = work / "archives"
    (archives / "partial").mkdir(parents=True)
    (work / "status").touch()
    options = {
        "Dir::State::status": str(work / "status"),
        "Dir::Cache::archives": str(archives),
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "true",
    }
    arguments = [item for key, value in options.items() for item in ("-o", f"{key}={value}")]
    install = ["apt-get", *arguments, "-qq", "-y", "--download-only", "install", *packages]
    try:
        run(install, timeout=FETCH_TIMEOUT)
    except LabError:
        run(["apt-get", "-qq", "update"], timeout=FETCH_TIMEOUT)
        run(install, timeout=FETCH_TIMEOUT)
    return sorted(archives.glob("*.deb"))


def _unpack(archive: Path, root: Path, leave_out: tuple[str, ...]) -> None:
    """Unpack one package into `root`, through the links of the merged folders."""
    excludes = [f"--exclude={pattern}" for pattern in leave_out]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as source:
        target = subprocess.run(
            ["tar", "-x", "-C", str(root), "--keep-directory-symlink", *excludes],
            stdin=source.stdout,
            capture_output=True,
            text=True,
            timeout=UNPACK_TIMEOUT,
            check=False,
        )
    if target.returncode != 0 or source.returncode != 0:
        raise LabError(f"{archive.name}: cannot be unpacked: {target.stderr.strip()}")


def _configure(recipe: Recipe, root: Path) -> None:
    """Do what maintainer scripts would have done."""
    users = [f"{name}:x:{number}:{number}::/:/usr/sbin/nologin" for name, number in recipe.users.items()]
    groups = [f"{name}:x:{number}:" for name, number in recipe.users.items()]
    (root / "etc" / "passwd").write_text("\n".join(users) + "\n", encoding="utf-8")
    (root / "etc" / "group").write_text("\n".join(groups) + "\n", encoding="utf-8")
    shell = root / "usr" / "bin" / "sh"
    if not shell.exists():
        shell.symlink_to("dash")
    for path, mode, owner in recipe.directories:
        directory = root / path.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(int(mode, 8))
        shutil.chown(directory, recipe.users[owner], recipe.users[owner])
    run(["chroot", str(root), "/usr/sbin/ldconfig"])
    libraries = ("/usr/lib/python3.11", "/usr/lib/python3/dist-packages")
    run(["chroot", str(root), "/usr/bin/python3", "-m", "compileall", "-q", *libraries], timeout=UNPACK_TIMEOUT)
