# SPDX-License-Identifier: AGPL-3.0-or-later
"""The demonstration behind `make demo`, and the probes that it shares with the end-to-end tests.

Read in this order: `scenario.py` (the steps), `report.py` (what must be true), then one module for each thing that is
shown: `traffic.py`, `policy.py`, `crash.py`, `headless.py`.
"""
