# SPDX-License-Identifier: AGPL-3.0-or-later
"""The controller and its switches measured: ``make bench-fabric``."""
