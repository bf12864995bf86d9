# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hostile input for RDMP: targets that take bytes, a coverage-guided fuzzer (atheris) and what CI runs of it."""
