# SPDX-License-Identifier: AGPL-3.0-or-later
"""RDMP with real processes, sockets and disks, while they are killed, stopped, filled and cut off from each other."""
