# SPDX-License-Identifier: AGPL-3.0-or-later
"""The images of the shop example: built once from Debian packages, kept as a tar file, loaded where missing."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from odyssey.lab import rootfs
from odyssey.lab.engineapi import EngineApi
from odyssey.lab.shell import LabError, Progress

SOURCES = Path(__file__).resolve().parents[2] / "examples" / "shop" / "images"
BASE = "shop-base:1"
IMAGES: Mapping[str, str] = {"shop-lb:1": "lb", "shop-app:1": "app", "shop-db:1": "db"}
"""Reference and source folder of each image."""

KEPT = 3
"""Versions of each kind of file that stay in the cache."""


class Images:
    """The images and the cache that holds them."""

    def __init__(self, cache: Path, sources: Path = SOURCES) -> None:
        self.cache = cache
        self.sources = sources

    @property
    def archive(self) -> Path:
        """The tar file with all images, named by the digest of their sources."""
        return self.cache / f"shop-images-{_digest(self.sources)}.tar"

    def ids(self) -> Mapping[str, str] | None:
        """Image ids by reference, or None if the images were not built yet."""
        try:
            found: Mapping[str, str] = json.loads(self._manifest.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found if self.archive.exists() else None

    def ensure(self, engines: Sequence[EngineApi], progress: Progress) -> Mapping[str, str]:
        """Make sure that every engine has every image; build them on the first if they are not in the cache.

        Returns image ids by reference. Raises LabError if building or loading fails.
        """
        with self._locked():
            ids = self.ids() or self._build(engines[0], progress)
        lacking = [engine for engine in engines if any(engine.image_id(name) != ids[name] for name in ids)]
        if lacking:
            started = time.monotonic()
            with ThreadPoolExecutor(max_workers=len(lacking)) as pool:
                list(pool.map(lambda engine: engine.load(self.archive), lacking))
            progress(f"images loaded into {len(lacking)} engines ({time.monotonic() - started:.1f} s)")
        return ids

    @property
    def _manifest(self) -> Path:
        return self.archive.with_suffix(".json")

    def _build(self, engine: EngineApi, progress: Progress) -> Mapping[str, str]:
        started = time.monotonic()
        base = f"shop-base:{_digest(self.sources / 'base')}"
        with tempfile.TemporaryDirectory(prefix="building-", dir=self.cache) as folder:
            work = Path(folder)
            if engine.image_id(base) is None:
                engine.import_rootfs(self._rootfs(work, progress), base)
            for reference, name in IMAGES.items():
                context = work / f"{name}.tar"
                _pack(self.sources / name, context)
                engine.build(context, reference, {"BASE": base})
                progress(f"image {reference} built")
            ids = {reference: _present(engine, reference) for reference in IMAGES}
            engine.save(tuple(IMAGES), self.archive)
        self._manifest.write_text(json.dumps(ids, indent=2) + "\n", encoding="utf-8")
        self._prune()
        size = self.archive.stat().st_size / 1e6
        progress(f"images built: {size:.0f} MB in {self.archive} ({time.monotonic() - started:.0f} s)")
        return ids

    def _rootfs(self, work: Path, progress: Progress) -> Path:
        """The tar file of the root file system below all images, made if it is not in the cache."""
        tar = self.cache / f"shop-base-{_digest(self.sources / 'base')}.tar"
        if not tar.exists():
            part = tar.with_suffix(".part")
            rootfs.build(rootfs.Recipe.read(self.sources / "base" / "rootfs.toml"), work, part, progress)
            part.rename(tar)
        return tar

    def _prune(self) -> None:
        """Remove old versions: of each kind of file the newest stay."""
        for pattern in ("shop-images-*.tar", "shop-images-*.json", "shop-base-*.tar"):
            files = sorted(self.cache.glob(pattern), key=lambda file: file.stat().st_mtime, reverse=True)
            for file in files[KEPT:]:
                file.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One builder at a time; a second waits for the first and then finds its images."""
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            lock = (self.cache / "lock").open("w")
        except OSError as error:
            raise LabError(f"image cache {self.cache}: {error}; choose another by ODYSSEY_CACHE") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _digest(sources: Path) -> str:
    """A digest of all files below a folder: names, modes and contents; and of the code that unpacks packages."""
    digest = hashlib.sha256(Path(rootfs.__file__).read_bytes())
    for file in _files(sources):
        digest.update(f"{file.relative_to(sources)} {file.stat().st_mode & 0o777:o}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    """The source files below a folder, without what tools leave there."""
    return sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


def _pack(folder: Path, tar: Path) -> None:
    """Write a build context: all files with their modes, owned by root, with no time in it."""
    with tarfile.open(tar, "w") as archive:
        for file in _files(folder):
            member = tarfile.TarInfo(str(file.relative_to(folder)))
            content = file.read_bytes()
            member.size, member.mode = len(content), file.stat().st_mode & 0o777
            archive.addfile(member, io.BytesIO(content))


def _present(engine: EngineApi, reference: str) -> str:
    identifier = engine.image_id(reference)
    if identifier is None:
        raise LabError(f"{engine.path}: {reference} was built, but the engine does not have it")
    return identifier
