# SPDX-License-Identifier: AGPL-3.0-or-later
"""RDMP, the Reliable Message Distribution Protocol: transactions, RPC and events over JSN1 frames.

The specification is docs/rdmp.md.  ``coordinator`` and ``participant_core`` are the protocol and do no input or output;
``hub`` (server), ``runner`` (participant) and ``client`` (caller) carry it out on asyncio.
"""
