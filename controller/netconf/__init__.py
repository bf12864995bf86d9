# SPDX-License-Identifier: AGPL-3.0-or-later
"""Configures by NETCONF what OpenFlow cannot set: VLANs, ports, access lists, link aggregation, the OpenFlow agent."""
