# SPDX-License-Identifier: AGPL-3.0-or-later
"""Service calls as objects: Micro-ESB maps a call to System > Network > Node, whose method returns a wish.

`handle` is the only way in. It checks the call against its schema, lets the one method run that belongs to the call's
`SYSServiceID`, and returns the wish; nothing here waits, reads or writes anything.
"""

from __future__ import annotations

from odyssey.services.bus import handle
from odyssey.services.errors import ServiceCallError

__all__ = ["ServiceCallError", "handle"]
