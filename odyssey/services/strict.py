# SPDX-License-Identifier: AGPL-3.0-or-later
"""Micro-ESB with the strictness that it lacks.

Stock `ServiceMapper` swallows TypeError, AttributeError and KeyError of service methods, runs any attribute that a
caller names, ignores misspelt classes and properties, and throws results away. This subclass replaces its walk through
the call: one method runs, chosen by us; what is unknown is refused; exceptions pass; the result is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from odyssey.services.errors import ServiceCallError
from odyssey.services.library import microesb
from odyssey.services.tree import MAPPING, Service, properties, references
from schemas import Fault

_RESERVED = frozenset({"SYSServiceMethod", "SYSBackendMethod"})
"""Words with which stock microesb would let the caller choose what runs."""


class StrictMapper(microesb.ServiceMapper):
    """Fills one object graph from one item of a call and runs one method of it; the outcome is `result`."""

    def __init__(self, service: Service, item: Mapping[str, Any]) -> None:
        self._service = service
        self.result: Any = None
        graph = microesb.ClassMapper(
            class_references=references(), class_mappings=dict(MAPPING), class_properties=properties()
        )
        super().__init__(class_mapper=graph, service_call_data=item)

    def _map(self, *, class_name: str, parent_instance: Any, hierarchy: Mapping[str, Any], **_: Any) -> None:
        """Walk down the service's path; the constructor of the base class calls this with the root class."""
        instance, data, path = parent_instance, hierarchy, "$.data[0]"
        _only(data, {class_name}, path)
        for name, below in zip_longest(self._service.path, self._service.path[1:]):
            path += f".{name}"
            data = data.get(name, {})
            instance = getattr(instance, name)
            _only(data, instance.properties.keys() | {below}, path)
            instance.set_properties(data)
        self.result = getattr(instance, self._service.method)()


def _only(data: Mapping[str, Any], allowed: set[str | None], path: str) -> None:
    """Refuse what is not known here: stock microesb drops it without a word."""
    known = allowed - _RESERVED - {None}
    faults = [
        Fault(f"{path}.{name}", data[name], f"only {', '.join(map(str, known))}", f"{path}.{name}: unknown field")
        for name in data
        if name not in known
    ]
    if faults:
        raise ServiceCallError(tuple(faults))
