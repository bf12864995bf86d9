# SPDX-License-Identifier: AGPL-3.0-or-later
"""Short names of the content of documents, so that two sides can tell whether they hold the same without sending it.

They find mistakes, not forgeries: both sides have proved who they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

MARK_BYTES = 8
DIGEST_BYTES = 16


def mark(document: Any) -> str:
    """Return 16 hexadecimal digits that follow from the content of a JSON document (BLAKE2b, RFC 7693)."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=MARK_BYTES).hexdigest()


def digest(marks: Mapping[str, str]) -> str:
    """Return 32 hexadecimal digits that follow from the marks of documents by their keys."""
    total = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for key in sorted(marks):
        total.update(f"{key}\0{marks[key]}\n".encode())
    return total.hexdigest()
