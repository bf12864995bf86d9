# SPDX-License-Identifier: AGPL-3.0-or-later
"""The host participants: an agent keeps the nodes of one host and takes part in the transactions that change them."""
