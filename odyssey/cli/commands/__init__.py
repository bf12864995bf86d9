# SPDX-License-Identifier: AGPL-3.0-or-later
"""The commands of odysseyctl, one module for each group."""
