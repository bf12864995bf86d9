# SPDX-License-Identifier: AGPL-3.0-or-later
"""The sandbox image, made on the host from its static busybox: no registry, 2 MB, one shell that sleeps."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

BUSYBOX = (Path("/bin/busybox"), Path("/usr/bin/busybox"))
# Process 1 has no default signal actions, so it must ask for TERM itself; `wait` also reaps what it inherits.
_SLEEP = "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done"
CHANGES = (f'ENTRYPOINT ["/bin/busybox", "sh", "-c", "{_SLEEP}"]',)
_PT_INTERP = 3  # elf(5)


class ImageError(Exception):
    """The sandbox image cannot be made; the text says what to do."""


def archive(candidates: tuple[Path, ...] = BUSYBOX) -> bytes:
    """Return the image's root filesystem as a tar archive. Raises ImageError."""
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        raise ImageError("the sandbox image is made of busybox, which is missing; run: apt-get install busybox-static")
    program = path.read_bytes()
    if not is_static(program):
        raise ImageError(f"{path} needs shared libraries; run: apt-get install busybox-static")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        file = tarfile.TarInfo("bin/busybox")
        file.mode, file.size = 0o755, len(program)
        tar.addfile(file, io.BytesIO(program))
        for name in ("sh", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return buffer.getvalue()


def is_static(program: bytes) -> bool:
    """Tell whether a 64 bit ELF program needs no loader: it has no PT_INTERP header (elf(5))."""
    if len(program) < 64 or program[:5] != b"\x7fELF\x02":
        return False
    order = "<" if program[5] == 1 else ">"
    (offset,) = struct.unpack_from(f"{order}Q", program, 32)
    size, count = struct.unpack_from(f"{order}HH", program, 54)
    kinds = (struct.unpack_from(f"{order}I", program, offset + number * size)[0] for number in range(count))
    return _PT_INTERP not in kinds
