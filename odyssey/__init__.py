# SPDX-License-Identifier: AGPL-3.0-or-later
"""Odyssey, the orchestrator: model, planning, services, state, security, API, odysseyctl and the lab."""
