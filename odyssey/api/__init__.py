# SPDX-License-Identifier: AGPL-3.0-or-later
"""What odysseyd answers to operators and other systems."""
