# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lab: Docker hosts, OpenFlow switches and all daemons on one machine, in network namespaces."""

from odyssey.lab.lab import Lab, LabStatus
from odyssey.lab.settings import Settings
from odyssey.lab.shell import LabError

__all__ = ["Lab", "LabError", "LabStatus", "Settings"]
