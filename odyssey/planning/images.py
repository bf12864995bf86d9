# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which image a network's new nodes run, and which hosts can run it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from odyssey.model.faults import fault, network_path
from odyssey.model.platform import Network
from odyssey.model.snapshot import Snapshot
from odyssey.planning.goal import ApplyGoal, Goal
from odyssey.planning.steps import PlanRefused


@dataclass(frozen=True, slots=True)
class Image:
    """A resolved image; `id` is None only where no host has it and one can pull it.

    `holders` are the hosts that have it. With `pullable` the other hosts can run it too, after a pull.
    """

    reference: str
    id: str | None
    holders: frozenset[str]
    pullable: bool

    def runs_on(self, host: str) -> bool:
        """Tell whether a host can run the image."""
        return self.pullable or host in self.holders


def image_references(goal: Goal, snapshot: Snapshot) -> frozenset[str]:
    """References that a plan for `goal` may need an id for: those of the goal and of every network that exists."""
    known = {network.image for platform in snapshot.platforms.values() for network in platform.networks.values()}
    if isinstance(goal, ApplyGoal):
        known.update(network["image"] for network in goal.document["networks"].values())
    return frozenset(known)


def has_registry(reference: str) -> bool:
    """Tell whether a reference names a registry host: its first part has a dot or a port, or is localhost (Docker)."""
    first, slash, _ = reference.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")


def resolve_image(network: Network, snapshot: Snapshot) -> Image:
    """Choose the image id for new nodes of `network`. Raises PlanRefused.

    All nodes of a network run one image: the one that its nodes run already, else the one that most connected hosts
    have under the reference (the smaller id where two are equal).
    """
    inventory = snapshot.inventory
    known = {
        host: snapshot.images[host][network.image]
        for host in sorted(snapshot.present)
        if inventory is not None and host in inventory.hosts and network.image in snapshot.images.get(host, {})
    }
    pullable = has_registry(network.image)
    running = next((node.image_id for node in snapshot.nodes_of(network.key) if node.image_id is not None), None)
    if running is None and known:
        counts = Counter(known.values())
        running = min(counts, key=lambda image: (-counts[image], image))
    holders = frozenset(host for host, image in known.items() if image == running)
    if holders or (pullable and not known):
        return Image(network.image, running, holders, pullable)
    path = network_path(network.name, "image")
    if not known:
        raise PlanRefused(fault(path, network.image, "an image that a connected host has (docker load), or a registry"))
    others = ", ".join(f"{host}: {image}" for host, image in known.items())
    raise PlanRefused(fault(path, network.image, f"the image {running} that its nodes run; hosts have {others}"))
