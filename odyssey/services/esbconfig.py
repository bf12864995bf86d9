# SPDX-License-Identifier: AGPL-3.0-or-later
"""Read by microesb when it is imported: the classes that a call may be mapped to."""

from __future__ import annotations

config = {"logging_enabled": False}
import_classes = {"odyssey.services.objects": ["System", "Network", "Node", "Switch"]}
