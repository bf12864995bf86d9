# SPDX-License-Identifier: AGPL-3.0-or-later
"""All documents that a controller holds once every decision is carried out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from odyssey.model.naming import binding_document
from odyssey.model.snapshot import Snapshot
from odyssey.planning.documents import binding, intent


def whole_intent(snapshot: Snapshot) -> dict[str, Mapping[str, Any]]:
    """The controller's documents by key, as the transactions of all plans so far add up to."""
    documents: dict[str, Mapping[str, Any]] = {}
    if snapshot.inventory is not None:
        documents["inventory"] = snapshot.inventory.for_controller(snapshot.maintenance)
    for platform in snapshot.platforms.values():
        documents |= intent(platform, snapshot.networks)
    for node in snapshot.nodes.values():
        documents[binding_document(node.name)] = binding(node, node.phase)
    return documents
