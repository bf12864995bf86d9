# SPDX-License-Identifier: AGPL-3.0-or-later
"""Changes of a platform's document: what stands in it while nodes move, and the transaction that stores it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from odyssey.model.graph import cycles
from odyssey.model.naming import network_document, network_key, platform_document
from odyssey.model.platform import Platform
from odyssey.planning.builder import Builder, new_states
from odyssey.planning.documents import intent
from odyssey.planning.operations import ADD, NARROW, Draft

Intents = Mapping[str, Mapping[str, Any]]


def between(before: Platform | None, wanted: Platform) -> Platform:
    """The platform while it changes from `before` to `wanted`: everything that either of them allows.

    Networks that go are kept until their nodes are gone, and what is closed stays open until the new way serves. If the
    dependencies of both together had a cycle, those that go are closed at once. Doing it again changes nothing.
    """
    if before is None:
        return wanted
    document = deepcopy(dict(wanted.document))
    networks = document["networks"]
    old = before.document["networks"]
    for name, network in networks.items():
        for part in ("dependsOn", "exposedTo", "peers"):
            _widen(network, old.get(name, {}), part)
    networks |= {name: deepcopy(network) for name, network in old.items() if name not in networks}
    if cycles({name: network.get("dependsOn", {}) for name, network in networks.items()}):
        for name, network in wanted.document["networks"].items():
            networks[name]["dependsOn"] = deepcopy(network.get("dependsOn", {}))
    return wanted if document == wanted.document else Platform.parse(document)


def _widen(network: dict[str, Any], old: Mapping[str, Any], part: str) -> None:
    """Add the ports that `old` opens in `part` to those of `network`."""
    if part not in old:
        return
    if part == "peers":
        network[part] = _both(network.get(part), old[part])
        return
    names = network.setdefault(part, {})
    for name, ports in old[part].items():
        names[name] = _both(names.get(name), ports)


def _both(new: Mapping[str, Any] | None, old: Mapping[str, Any]) -> dict[str, Any]:
    ports = list(new["ports"]) if new is not None else []
    return {"ports": ports + [deepcopy(port) for port in old["ports"] if port not in ports]}


def store_platform(builder: Builder, platform: Platform, *, counts: bool = False) -> None:
    """Append the transaction that makes `platform` the stored document, if it is not; with `counts` also for counts."""
    now = builder.now
    before = now.platforms.get(platform.name)
    keys = [network_key(platform.name, name) for name in platform.networks]
    stray = counts and any(now.networks[key].count != builder.counts[key] for key in keys)
    if before is not None and before.document == platform.document and not stray:
        return
    order = ADD if before is None or _opens(before, platform) else NARROW
    draft = Draft(f"{'add' if before is None else 'change'} platform {platform.name}", order)
    draft.change(platform_document(platform.name), platform.document)
    states = new_states([key for key in keys if key not in now.networks], now.taken_network_ids(), builder.counts)
    for key, state in states.items():
        draft.change(network_document(key), state.document())
        draft.hold(f"network-id/{state.id}")
    builder.recount(draft, [key for key in keys if key in now.networks])
    gone = [network.key for name, network in before.networks.items() if name not in platform.networks] if before else []
    for key in gone:
        draft.change(network_document(key), None)
        draft.hold(f"network-id/{now.networks[key].id}")
    _intend(builder, draft, platform, "retire" if order == NARROW else "admit")
    builder.write_files(draft, _rewired(before, platform))
    draft.event("platform.changed", platform=platform.name, networks=list(platform.networks))
    builder.add(draft)


def _intend(builder: Builder, draft: Draft, platform: Platform, stage: str) -> None:
    """Tell the controller the difference; where there is none, one document that it has already."""
    before = builder.now.platforms.get(platform.name)
    old: Intents = intent(before, builder.now.networks) if before is not None else {}
    new: Intents = intent(platform, builder.now.folded(draft.changes).networks)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            draft.intend(stage, key, new.get(key))
    if old == new:
        key = network_document(network_key(platform.name, min(platform.networks)))
        draft.intend(stage, key, new[key])


def _opens(before: Platform, platform: Platform) -> bool:
    """Tell whether the change adds or alters anything in the fabric, beyond closing and removing."""
    for name, network in platform.networks.items():
        old = before.networks.get(name)
        if old is None or (old.subnet, old.subnet6, old.vlan) != (network.subnet, network.subnet6, network.vlan):
            return True
        if network.service is not None and network.service != old.service:
            return True
        pairs = [(old.depends_on, network.depends_on), (old.exposed_to, network.exposed_to)]
        if set(network.peers) - set(old.peers):
            return True
        if any(set(ports) - set(was.get(other, ())) for was, new in pairs for other, ports in new.items()):
            return True
    return False


def _rewired(before: Platform | None, platform: Platform) -> Iterable[str]:
    """Keys of the networks whose dependencies change, or the service addresses of those."""
    if before is None:
        return ()
    return [
        network.key
        for name, network in platform.networks.items()
        if name in before.networks and (
            before.networks[name].depends_on != network.depends_on
            or any(_service(before, other) != _service(platform, other) for other in network.depends_on)
        )
    ]


def _service(platform: Platform, name: str) -> dict[str, str] | None:
    network = platform.networks.get(name)
    return network.service.addresses() if network is not None and network.service is not None else None
