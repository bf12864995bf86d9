# SPDX-License-Identifier: AGPL-3.0-or-later
"""JSON Schema (2020-12) documents of Odyssey and the loader that checks values against them."""

from __future__ import annotations

from schemas.digest import digest, mark
from schemas.loader import Fault, SchemaError, check, document, names, valid, validate

__all__ = ["Fault", "SchemaError", "check", "digest", "document", "mark", "names", "valid", "validate"]
