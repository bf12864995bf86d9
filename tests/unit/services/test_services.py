# SPDX-License-Identifier: AGPL-3.0-or-later
"""Service calls: what they wish for, what is refused, and that calls do not touch each other."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from odyssey.services import ServiceCallError, handle
from odyssey.services import objects as service_objects
from odyssey.services.strict import StrictMapper
from odyssey.services.tree import SERVICES, Service
from odyssey.services.wish import (
    AddNetwork,
    AddNodes,
    ApplyPlatform,
    RemoveNetwork,
    RemoveNodes,
    RemovePlatform,
    ScaleNetwork,
    SetInventory,
    SetMaintenance,
    WeighNode,
    Wish,
)
from tests.unit.planning.worlds import ROOT, Json, inventory, network, shop


def call(service: str, system: Json, **more: Any) -> Json:
    """A service call."""
    return {"SYSServiceID": service, "id": "c-1", "data": [{"System": system}], **more}


def app(**fields: Any) -> Json:
    """The objects of a call about the network app of the shop."""
    return {"platform": "shop", "Network": {"name": "app", **fields}}


def refused(request: Any) -> dict[str, str]:
    """Path and message of each fault."""
    with pytest.raises(ServiceCallError) as caught:
        handle(request)
    return {fault.path: fault.message for fault in caught.value.faults}


WISHES: list[tuple[Json, Wish]] = [
    (call("setInventory", {"document": inventory()}), SetInventory(inventory())),
    (call("addPlatform", {"document": shop()}), ApplyPlatform(shop())),
    (call("removePlatform", {"platform": "shop"}), RemovePlatform("shop")),
    (call("addNetwork", app(document=network(1))), AddNetwork("shop", "app", network(1))),
    (call("removeNetwork", app()), RemoveNetwork("shop", "app")),
    (call("scaleNetwork", app(count=0)), ScaleNetwork("shop", "app", 0)),
    (call("addNode", app(Node={"count": 2})), AddNodes("shop", "app", 2)),
    (call("addNode", app(Node={"name": "shop-app-3"})), AddNodes("shop", "app", name="shop-app-3")),
    (call("removeNode", app(Node={"count": 2})), RemoveNodes("shop", "app", 2)),
    (call("removeNode", app(Node={"name": "shop-app-3"})), RemoveNodes("shop", "app", names=("shop-app-3",))),
    (
        call("removeNode", app(Node={"name": ["shop-app-3", "shop-app-4"]})),
        RemoveNodes("shop", "app", names=("shop-app-3", "shop-app-4")),
    ),
    (
        call("weighNode", app(Node={"name": "shop-app-1", "weight": 0})),
        WeighNode("shop", "app", "shop-app-1", 0),
    ),
    (call("setMaintenance", {"Switch": {"name": "sw1", "maintenance": True}}), SetMaintenance("sw1", on=True)),
    (
        call("setMaintenance", {"Switch": {"name": "sw1", "maintenance": False, "force": True}}),
        SetMaintenance("sw1", on=False, force=True),
    ),
]


@pytest.mark.parametrize(("request_", "wish"), WISHES, ids=[item[0]["SYSServiceID"] for item in WISHES])
def test_each_service_has_its_wish(request_: Json, wish: Wish) -> None:
    assert handle(request_) == wish


def test_every_service_of_the_schema_has_a_method() -> None:
    assert set(schemas.document("service-call")["properties"]["SYSServiceID"]["enum"]) == set(SERVICES)


def test_options_do_not_change_the_wish() -> None:
    options = {"dryRun": True, "atomic": True, "index": 3}
    assert handle(call("scaleNetwork", app(count=2), options=options)) == ScaleNetwork("shop", "app", 2)


def test_a_wish_names_its_images() -> None:
    assert ApplyPlatform(shop()).images() == {"shop-lb:1", "shop-app:1", "shop-db:1"}
    assert AddNetwork("shop", "x", network(1)).images() == {"demo:1"}
    assert ScaleNetwork("shop", "app", 1).images() == frozenset()


def test_a_wish_is_independent_of_the_call() -> None:
    request = call("addPlatform", {"document": shop()})
    wish = handle(request)
    request["data"][0]["System"]["document"]["networks"].clear()
    assert wish == ApplyPlatform(shop())


REFUSED: list[tuple[str, Json, set[str]]] = [
    ("unknown service", call("dropAll", {"platform": "shop"}), {"$.SYSServiceID"}),
    ("no objects", {"SYSServiceID": "addNode", "id": "c", "data": []}, {"$.data"}),
    ("two items", {**call("removeNetwork", app()), "data": [{"System": app()}] * 2}, {"$.data"}),
    ("no id", {"SYSServiceID": "removePlatform", "data": [{"System": {"platform": "a"}}]}, {"$.id"}),
    ("bad id", {**call("removePlatform", {"platform": "a"}), "id": "a b"}, {"$.id"}),
    ("wrong object", call("scaleNetwork", app(Node={"count": 1})), {
        "$.data[0].System.Network.Node", "$.data[0].System.Network.count",
    }),
    ("count and name", call("addNode", app(Node={"count": 1, "name": "shop-app-1"})), {
        "$.data[0].System.Network.Node",
    }),
    ("neither", call("addNode", app(Node={})), {"$.data[0].System.Network.Node"}),
    ("several names to add", call("addNode", app(Node={"name": ["shop-app-1"]})), {
        "$.data[0].System.Network.Node.name",
    }),
    ("count of zero", call("addNode", app(Node={"count": 0})), {"$.data[0].System.Network.Node.count"}),
    ("count of text", call("scaleNetwork", app(count="2")), {"$.data[0].System.Network.count"}),
    ("weight without a node", call("weighNode", app(Node={"weight": 5})), {"$.data[0].System.Network.Node.name"}),
    ("weight of two nodes", call("weighNode", app(Node={"name": ["shop-app-1"], "weight": 5})), {
        "$.data[0].System.Network.Node.name",
    }),
    ("weight below 0", call("weighNode", app(Node={"name": "shop-app-1", "weight": -1})), {
        "$.data[0].System.Network.Node.weight",
    }),
    ("maintenance of what", call("setMaintenance", {"Switch": {"maintenance": True}}), {
        "$.data[0].System.Switch.name",
    }),
    ("maintenance maybe", call("setMaintenance", {"Switch": {"name": "sw1", "maintenance": "on"}}), {
        "$.data[0].System.Switch.maintenance",
    }),
    ("switch of a platform", call("setMaintenance", {"platform": "a", "Switch": {"name": "s", "maintenance": True}}), {
        "$.data[0].System.platform",
    }),
    ("unknown option", call("removePlatform", {"platform": "shop"}, options={"force": True}), {"$.options.force"}),
    ("method of an object", call("scaleNetwork", app(count=1, SYSServiceMethod="remove")), {
        "$.data[0].System.Network.SYSServiceMethod",
    }),
    ("method above", call("scaleNetwork", {**app(count=1), "SYSServiceMethod": "x"}), {
        "$.data[0].System.SYSServiceMethod",
    }),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "paths"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_call_that_does_not_fit_is_refused_by_path(request_: Json, paths: set[str]) -> None:
    assert set(refused(request_)) == paths


def test_the_caller_cannot_choose_a_backend_method() -> None:
    request = call("scaleNetwork", app(count=1))
    request["data"][0]["SYSBackendMethod"] = {"System": "remove_platform"}
    assert set(refused(request)) == {"$.data[0].SYSBackendMethod"}


def test_faults_of_a_document_have_the_paths_of_its_author() -> None:
    document = shop()
    document["networks"]["app"]["scale"]["min"] = -1
    document["networks"]["db"]["health"] = {"type": "udp"}
    document["networks"]["lb"]["colour"] = "red"
    assert set(refused(call("addPlatform", {"document": document}))) == {
        "$.networks.app.scale.min", "$.networks.db.health.type", "$.networks.lb.colour",
    }  # fmt: skip
    assert set(refused(call("addNetwork", app(document={**network(1), "vlan": 1})))) == {"$.networks.app.vlan"}
    assert set(refused(call("setInventory", {"document": {}}))) == {"$.cluster", "$.fabric", "$.hosts"}


def test_the_layer_itself_refuses_what_a_schema_would_have_let_through() -> None:
    service = SERVICES["scaleNetwork"]
    for item, path in (
        ({"System": {"SYSServiceMethod": "remove_platform"}}, "$.data[0].System.SYSServiceMethod"),
        ({"System": {"Network": {"nmae": "app"}}}, "$.data[0].System.Network.nmae"),
        ({"System": {"Network": {"Node": {}}}}, "$.data[0].System.Network.Node"),
        ({"System": {"_map": 1}}, "$.data[0].System._map"),
        ({"system": {}}, "$.data[0].system"),
    ):
        with pytest.raises(ServiceCallError) as caught:
            StrictMapper(service, item)
        assert [fault.path for fault in caught.value.faults] == [path]


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError, ValueError])
def test_an_error_in_a_service_method_is_not_swallowed(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> None:
        raise error("a defect")

    monkeypatch.setattr(service_objects.Network, "scale", broken)
    with pytest.raises(error, match="a defect"):
        handle(call("scaleNetwork", app(count=1)))


def test_a_method_that_is_missing_is_not_swallowed() -> None:
    with pytest.raises(AttributeError):
        StrictMapper(Service(("System",), "no_such_method"), {"System": {"platform": "shop"}})


def test_a_method_that_returns_no_wish_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_objects.Network, "scale", lambda _: 7)
    with pytest.raises(TypeError, match="scaleNetwork returned int"):
        handle(call("scaleNetwork", app(count=1)))


def test_calls_in_many_threads_do_not_touch_each_other() -> None:
    def one(number: int) -> bool:
        if number % 3 == 0:
            return handle(call("scaleNetwork", app(count=number))) == ScaleNetwork("shop", "app", number)
        if number % 3 == 1:
            wish = handle(call("addNode", {"platform": f"p{number}", "Network": {"name": "a", "Node": {"count": 1}}}))
            return wish == AddNodes(f"p{number}", "a", 1)
        return handle(call("removePlatform", {"platform": f"p{number}"})) == RemovePlatform(f"p{number}")

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(600)))


def test_a_call_leaves_nothing_for_the_next() -> None:
    handle(call("addNode", app(Node={"count": 5})))
    assert handle(call("removeNode", app(Node={"name": "shop-app-1"}))) == RemoveNodes(
        "shop", "app", names=("shop-app-1",)
    )


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(WISHES), st.data())
def test_a_damaged_call_gives_a_wish_or_faults_and_nothing_else(case: tuple[Json, Wish], data: st.DataObject) -> None:
    request = deepcopy(case[0])
    at: Any = request
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(JSON_VALUES)
    try:
        assert isinstance(handle(request), Wish)
    except ServiceCallError as error:
        assert error.faults


def test_the_library_is_imported_in_one_place_with_our_classes() -> None:
    code = (
        "import os, odyssey.services, microesb.microesb as m;"
        "print(m.esbconf_mod_ref.__name__, m.System.__module__, 'esbconfig' in os.environ)"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["odyssey.services.esbconfig", "odyssey.services.objects", "False"]


def test_a_library_with_other_classes_is_refused(tmp_path: Any) -> None:
    (tmp_path / "other.py").write_text("config = {'logging_enabled': False}\nimport_classes = {}\n")
    code = "import microesb.microesb; import odyssey.services"
    environment = {**os.environ, "esbconfig": "other", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "microesb was imported before with the configuration other" in told.stderr
