# SPDX-License-Identifier: AGPL-3.0-or-later
"""Parameters of RPC methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rdmp.rpc import RpcError


def text(params: Mapping[str, Any], key: str) -> str:
    """The text at `key`. Raises RpcError `invalid` that names the JSON path."""
    value = params.get(key)
    if not isinstance(value, str) or not value:
        raise RpcError("invalid", f"$.{key}: found {value!r}, must be a text")
    return value
