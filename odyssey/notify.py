# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tells the service manager how the daemon is (sd_notify(3)); does nothing where there is none."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send `state` (for example `READY=1`) to the socket that NOTIFY_SOCKET names."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(address)
        sender.sendall(state.encode())
