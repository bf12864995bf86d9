# SPDX-License-Identifier: AGPL-3.0-or-later
"""OpenFlow 1.3 by os-ken; nothing outside of this package imports os-ken."""
