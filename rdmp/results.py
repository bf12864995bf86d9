# SPDX-License-Identifier: AGPL-3.0-or-later
"""Results of effects as the journal and a message can hold them, whatever the participant made of them.

A result that cannot be written would end the participant, for a stage again after each restart.  What only tells
people something is therefore repaired or left out; what the participant must find again (``state``) is refused.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rdmp.frames import FrameError, dump, parse
from rdmp.limits import MAX_DEPTH
from rdmp.participant import Effect
from rdmp.participant_table import Denied, Failed, Result

_log = logging.getLogger(__name__)
_SURROGATE = re.compile("[\ud800-\udfff]")


def storable(result: object, what: str) -> Result:
    """Return ``result`` so that it can be stored and sent; ``what`` names the effect in the log."""
    match result:
        case Effect():
            try:
                if result.state:
                    dump(dict(result.state)).encode()
            except (FrameError, UnicodeEncodeError, TypeError, ValueError) as error:
                return Failed(f"the state documents are not JSON: {_escaped(str(error))}")
            degraded = None if result.degraded is None else _escaped(str(result.degraded))
            detail = _detail(result.detail, what)
            if detail is result.detail and degraded == result.degraded:
                return result
            return replace(result, detail=detail, degraded=degraded)
        case Denied():
            return Denied(_escaped(str(result.reason)), _detail(result.detail, what) or None)
        case Failed():
            return Failed(_escaped(result.reason))
        case _:
            return Failed(f"the participant returned {type(result).__name__}, not an Effect")


def _escaped(text: str) -> str:
    r"""Return the text with lone surrogates written as \udcXX: file names that are no UTF-8 bring them."""
    return _SURROGATE.sub(lambda one: f"\\u{ord(one[0]):04x}", text)


def _detail(detail: Any, what: str) -> Mapping[str, Any]:
    """Return what can be said in JSON, nothing if it cannot."""
    try:
        if not isinstance(detail, Mapping):
            if detail is None:
                return {}
            raise FrameError("bad_message", f"it is a {type(detail).__name__}, not an object")
        text = dump(dict(detail))
        if text.count("{") + text.count("[") >= MAX_DEPTH:  # read as its receiver will, who refuses what is too deep
            parse(dump({"detail": dict(detail)}).encode(errors="replace"))
        text.encode()
    except UnicodeEncodeError:
        # In JSON text a backslash that is meant must be written twice.
        value: dict[str, Any] = json.loads(_SURROGATE.sub(lambda one: f"\\\\u{ord(one[0]):04x}", text))
        return value
    except FrameError as error:
        _log.error("%s: its detail is left out: %s", what, _escaped(str(error)))
        return {}
    return detail
