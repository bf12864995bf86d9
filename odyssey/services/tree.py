# SPDX-License-Identifier: AGPL-3.0-or-later
"""The service model as microesb wants it: which class stands where, its properties, and what each service id runs.

microesb writes into the dictionaries that it is given, so each call gets fresh ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAPPING: Mapping[str, str] = {"System": "System", "Network": "Network", "Node": "Node", "Switch": "Switch"}
"""Names in a call and the classes that they stand for."""


@dataclass(frozen=True, slots=True)
class Service:
    """What a service id runs: the method of one class, at the end of a path of objects."""

    path: tuple[str, ...]
    method: str


_SYSTEM = ("System",)
_NETWORK = ("System", "Network")
_NODE = ("System", "Network", "Node")
_SWITCH = ("System", "Switch")

SERVICES: Mapping[str, Service] = {
    "setInventory": Service(_SYSTEM, "set_inventory"),
    "addPlatform": Service(_SYSTEM, "add_platform"),
    "removePlatform": Service(_SYSTEM, "remove_platform"),
    "addNetwork": Service(_NETWORK, "add"),
    "removeNetwork": Service(_NETWORK, "remove"),
    "scaleNetwork": Service(_NETWORK, "scale"),
    "addNode": Service(_NODE, "add"),
    "removeNode": Service(_NODE, "remove"),
    "weighNode": Service(_NODE, "weigh"),
    "setMaintenance": Service(_SWITCH, "maintain"),
}


def references() -> dict[str, Any]:
    """The tree of classes."""
    node = {"Node": {"property_ref": "Node"}}
    below = {"Network": {"property_ref": "Network", "children": node}, "Switch": {"property_ref": "Switch"}}
    return {"System": {"property_ref": "System", "children": below}}


def properties() -> dict[str, Any]:
    """The properties of each class. Their types stand in the schema ``service-call``."""
    return {
        "System": {"properties": {"platform": _property("str"), "document": _property("dict")}},
        "Network": {"properties": {"name": _property("str"), "document": _property("dict"), "count": _property("int")}},
        "Node": {"properties": {"name": _property("str"), "count": _property("int"), "weight": _property("int")}},
        "Switch": {
            "properties": {"name": _property("str"), "maintenance": _property("bool"), "force": _property("bool")}
        },
    }


def _property(kind: str) -> dict[str, Any]:
    return {"type": kind, "default": None, "required": False, "description": ""}
