# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was tried to make RDMP faster, for docs/benchmarks.md; written by hand."""

LINES = (
    "Measured on a machine that others used too, so as processor time.",
)
