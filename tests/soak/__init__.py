# SPDX-License-Identifier: AGPL-3.0-or-later
"""Soak tests: thousands of reconnects, and a judgement of what they leave behind."""
