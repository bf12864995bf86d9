# SPDX-License-Identifier: AGPL-3.0-or-later
"""The error of a call that is refused."""

from __future__ import annotations

from schemas import Fault


class ServiceCallError(ValueError):
    """A service call does not fit its schema or the service model; `faults` holds every reason."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("the service call is refused:\n" + "\n".join(f"  {fault.message}" for fault in faults))
        self.faults = faults
