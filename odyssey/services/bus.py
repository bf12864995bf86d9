# SPDX-License-Identifier: AGPL-3.0-or-later
"""The way of a service call: schema, embedded document, objects, wish."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import schemas
from odyssey.services.errors import ServiceCallError
from odyssey.services.strict import StrictMapper
from odyssey.services.tree import SERVICES
from odyssey.services.wish import Wish


def handle(call: Mapping[str, Any]) -> Wish:
    """Return what a service call wishes for. Raises ServiceCallError with every fault.

    Faults of the call have paths in the call (``$.data[0].System.platform``); faults of a platform, network or
    inventory document that it carries have paths in that document (``$.networks.app.scale.min``), as its author knows
    it. May be called from any number of threads: each call has its own objects.
    """
    if faults := schemas.validate("service-call", call):
        raise ServiceCallError(faults)
    item: Mapping[str, Any] = deepcopy(call["data"][0])
    if faults := _document_faults(call["SYSServiceID"], item):
        raise ServiceCallError(faults)
    result = StrictMapper(SERVICES[call["SYSServiceID"]], item).result
    if not isinstance(result, Wish):
        raise TypeError(f"the method of {call['SYSServiceID']} returned {type(result).__name__} instead of a wish")
    return result


def _document_faults(service: str, item: Mapping[str, Any]) -> tuple[schemas.Fault, ...]:
    system = item["System"]
    match service:
        case "setInventory":
            return schemas.validate("inventory", system["document"])
        case "addPlatform":
            return schemas.validate("platform", system["document"])
        case "addNetwork":
            network = system["Network"]
            alone = {"platform": system["platform"], "networks": {network["name"]: network["document"]}}
            return schemas.validate("platform", alone)
        case _:
            return ()
