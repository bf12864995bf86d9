# SPDX-License-Identifier: AGPL-3.0-or-later
"""The one place where microesb is imported for the first time.

microesb reads the name of its configuration module from the environment while it is imported, and copies the classes
named there into its own module; so the variable must be set before, and there is one registry for each process.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

_VARIABLE = "esbconfig"
_CONFIG = "odyssey.services.esbconfig"
_MODULE = "microesb.microesb"


def _load() -> Any:
    if _MODULE in sys.modules:
        loaded = sys.modules[_MODULE]
        used = getattr(getattr(loaded, "esbconf_mod_ref", None), "__name__", None)
        if used != _CONFIG:
            raise ImportError(f"microesb was imported before with the configuration {used}; it must be {_CONFIG}")
        return loaded
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = _CONFIG
    try:
        return importlib.import_module(_MODULE)
    finally:
        # Processes that this one starts have no use for it.
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


microesb: Any = _load()
"""The module ``microesb.microesb``, with our classes registered."""
