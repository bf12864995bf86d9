# SPDX-License-Identifier: AGPL-3.0-or-later
"""The role check: defaults, patterns, role documents, and what a refusal says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from odyssey.api.roles import DEFAULT_ROLES, Forbidden, Permission, Role, authorise, roles_from_documents
from rdmp.tls import Identity


@dataclass(frozen=True)
class Who:
    role: str
    name: str


ALICE = Who("operator", "alice")


@pytest.mark.parametrize(
    "permission",
    [
        Permission("addNode", "shop", "app"),
        Permission("setInventory"),
        Permission("token.create"),
        Permission("status"),
    ],
)
def test_an_operator_may_everything(permission: Permission) -> None:
    authorise(ALICE, permission)
    authorise(Who("operator", "local:root"), permission)


def test_a_publisher_may_publish_scaling_topics_only() -> None:
    grafana = Who("publisher", "grafana")
    authorise(grafana, Permission("publish:scaling.cpu"))
    for service in ("publish:node.died", "publish:scalingx", "node.list", "addNode", "participant:vote"):
        with pytest.raises(Forbidden):
            authorise(grafana, Permission(service, "shop", "app"))


@pytest.mark.parametrize(("role", "topic", "other"), [("agent", "node", "switch"), ("controller", "switch", "node")])
def test_a_participant_tells_what_it_sees_and_asks_for_no_change(role: str, topic: str, other: str) -> None:
    who = Who(role, "h1")
    authorise(who, Permission("participant:vote"))
    authorise(who, Permission(f"publish:{topic}.died"))
    for service in (f"publish:{other}.died", "publish:scaling.cpu", "addNode", "removePlatform", "token.create"):
        with pytest.raises(Forbidden):
            authorise(who, Permission(service))


@pytest.mark.parametrize("role", ["switch", "orchestrator", "unknown"])
def test_who_has_no_role_may_nothing(role: str) -> None:
    with pytest.raises(Forbidden):
        authorise(Who(role, "x"), Permission("status"))


def test_a_refusal_names_who_and_the_missing_permission() -> None:
    with pytest.raises(
        Forbidden,
        match=r"agent/h1 has no permission for addNode on shop/app: a role must allow service 'addNode', "
        r"platform 'shop', network 'app'",
    ) as refused:
        authorise(Who("agent", "h1"), Permission("addNode", "shop", "app"))
    assert refused.value.permission == Permission("addNode", "shop", "app")


def test_a_role_document_limits_services_platforms_and_networks() -> None:
    document = {
        "subjects": ["publisher/grafana"],
        "allow": [{"services": ["addNode", "removeNode"], "platforms": ["shop"], "networks": ["app", "web-*"]}],
    }
    roles = roles_from_documents({"scaler": document})
    grafana = Who("publisher", "grafana")
    authorise(grafana, Permission("addNode", "shop", "app"), roles)
    authorise(grafana, Permission("removeNode", "shop", "web-2"), roles)
    authorise(grafana, Permission("publish:scaling.cpu"), roles)
    for permission in (
        Permission("addNode", "shop", "db"),
        Permission("addNode", "other", "app"),
        Permission("addNode"),
        Permission("scaleNetwork", "shop", "app"),
    ):
        with pytest.raises(Forbidden):
            authorise(grafana, permission, roles)
    with pytest.raises(Forbidden):
        authorise(Who("publisher", "other"), Permission("addNode", "shop", "app"), roles)


def test_all_conditions_must_hold_in_one_allowance() -> None:
    roles = (
        Role.from_document(
            "mixed",
            {
                "subjects": ["operator/*"],
                "allow": [
                    {"services": ["addNode"], "platforms": ["shop"]},
                    {"services": ["removeNode"], "platforms": ["other"]},
                ],
            },
        ),
    )
    with pytest.raises(Forbidden):
        authorise(ALICE, Permission("addNode", "other"), roles)


def test_a_document_may_replace_a_default_role() -> None:
    roles = roles_from_documents({"operator": {"subjects": ["operator/bob"], "allow": [{"services": ["*"]}]}})
    authorise(Who("operator", "bob"), Permission("addNode", "shop", "app"), roles)
    with pytest.raises(Forbidden):
        authorise(ALICE, Permission("addNode", "shop", "app"), roles)
    assert len(roles) == len(DEFAULT_ROLES)


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({}, "subjects must be"),
        ({"subjects": [], "allow": []}, "subjects must be"),
        ({"subjects": ["alice"], "allow": []}, "must look like"),
        ({"subjects": ["operator/*"]}, "allow must be"),
        ({"subjects": ["operator/*"], "allow": [{}]}, "services must be"),
        ({"subjects": ["operator/*"], "allow": [{"services": ["*"], "network": ["x"]}]}, "unknown field 'network'"),
        ({"subjects": ["operator/*"], "allow": [{"services": "*"}]}, "services must be"),
        ({"subjects": ["operator/*"], "allow": [], "platforms": ["shop"]}, "unknown field 'platforms'"),
        ("x", "found 'x', must be a table"),
        ({"subjects": ["operator/*"], "allow": [{"services": ["*"], "platforms": [7]}]}, "platforms must be"),
    ],
)
def test_a_faulty_role_document_is_refused(document: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Role.from_document("r", document)


@pytest.mark.parametrize("role", ["agent", "controller", "netconf"])
def test_a_participant_may_tell_that_an_effect_failed(role: str) -> None:
    authorise(Identity("lab", role, "h1"), Permission("publish:participant.effect_failed"))


def test_reading_is_everything_that_only_looks_and_no_probe() -> None:
    document = {"subjects": ["publisher/grafana"], "allow": [{"services": ["@reading"]}]}
    roles = roles_from_documents({"watcher": document})
    grafana = Who("publisher", "grafana")
    for service in ("fabric.path", "fabric.counters", "switch.ports", "switch.flows", "node.list", "status",
                    "netconf.list", "netconf.diff", "netconf.backups"):  # fmt: skip
        authorise(grafana, Permission(service), roles)
    for service in ("switch.probe", "addNode", "token.create", "tx.resolve", "publish:node.died",
                    "netconf.restore", "netconf.mend"):  # fmt: skip
        with pytest.raises(Forbidden):
            authorise(grafana, Permission(service), roles)
