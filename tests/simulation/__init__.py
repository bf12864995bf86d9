# SPDX-License-Identifier: AGPL-3.0-or-later
"""RDMP under a simulated clock, network and disk, all from one seed.

The machines are the production cores (``rdmp.coordinator``, ``rdmp.participant_core``); the shells around them
(``rdmp.driver``, ``rdmp.runner``, the agents' and the controller's effects) are here in a simulated form.  ``python -m
tests.simulation --help`` tells how to run it, docs/reliability.md what it has found.
"""
