# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compares what the policy says with what compiled tables do: in the evaluator and in Open vSwitch.

``python -m tests.fabric_check --cases N --json`` (``docs/fabric.md``, "How this is checked").
"""
