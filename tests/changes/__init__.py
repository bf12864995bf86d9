# SPDX-License-Identifier: AGPL-3.0-or-later
"""Random changes of intent on real switches under numbered packets: ``python -m tests.changes --changes 1000``."""
