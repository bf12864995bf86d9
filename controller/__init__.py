# SPDX-License-Identifier: AGPL-3.0-or-later
"""The SDN participant: it makes the committed intent true in the switches."""
