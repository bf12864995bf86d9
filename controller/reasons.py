# SPDX-License-Identifier: AGPL-3.0-or-later
"""Why a packet stops, by the intent, and what would have to be declared or done so that it does not.  Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from controller.ends import End
from controller.evaluate import Drop
from controller.fabric import Intent, Phase, Service

_NOT_ADMITTED = {
    Phase.STANDBY: "is standby: it runs, and no switch knows it",
    Phase.DARK: "is being prepared and not admitted yet",
}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: may ``source`` open ``service`` of ``target``."""

    source: End
    target: End
    service: Service


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something stops; ``declare`` is the part of the platform document of ``platform`` that is missing."""

    code: str
    text: str
    remedy: str = ""
    platform: str = ""
    declare: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as an answer carries it."""
        found: dict[str, Any] = {"code": self.code, "text": self.text, "remedy": self.remedy}
        return found | ({"platform": self.platform, "declare": self.declare} if self.declare else {})


def reason_of(intent: Intent, asked: Question, drop: Drop) -> Reason:
    """Return why a packet of a question, or its answer, ended where it did."""
    if drop.entry is None or drop.entry.actions:
        if "is down" in drop.reason or "is live" in drop.reason:
            text = f"{drop.reason} at {drop.switch}, and there is no other way"
            return Reason("port_down", text, "look at the cable and the device there: odysseyctl fabric show")
        if drop.entry is not None:
            return _otherwise(drop)
    return _by_phase(asked) or _by_policy(intent, asked) or _by_target(asked) or _otherwise(drop)


def _by_phase(asked: Question) -> Reason | None:
    binding = asked.source.binding
    if binding is None or binding.phase not in _NOT_ADMITTED:
        return None
    if binding.phase is Phase.DARK and asked.service.protocol == "tcp":
        return None  # it may open what it depends on
    text = f"{binding.node} {_NOT_ADMITTED[binding.phase]}"
    if binding.phase is Phase.DARK:
        return Reason("dark", f"{text}; until then it may open TCP connections only", "wait for its transaction")
    return Reason("not_admitted", text, _admit(asked.source))


def _admit(end: End) -> str:
    return f"admit it, for example: odysseyctl network scale {end.group} COUNT"


def _by_policy(intent: Intent, asked: Question) -> Reason | None:
    source, target, service = asked.source, asked.target, asked.service
    for policy in intent.policies.values():
        ends = (policy.source, policy.target, policy.from_border)
        if ends == (source.group, target.group, source.is_border) and service in policy.services:
            return None
    what = f"{service.protocol} {service.port}"
    if target.is_border:
        text = f"nothing opens connections from {source.group} towards the border {target.group}"
        return Reason("no_policy", text, "none can be declared: connections come in from behind a border only")
    text = f"nothing declares that {source.group} may open {what} of {target.group}"
    platform, _, network = target.group.partition("/")
    ports = {"ports": [{"protocol": service.protocol, "port": service.port}]}
    if source.is_border:
        return _declared(text, platform, {network: {"exposedTo": {source.group: ports}}})
    other, _, tier = source.group.partition("/")
    if other != platform:
        return Reason("no_policy", text, "none can be declared: networks of two platforms never talk")
    if tier == network:
        return _declared(text, platform, {network: {"peers": ports}})
    return _declared(text, platform, {tier: {"dependsOn": {network: ports}}})


def _declared(text: str, platform: str, declare: dict[str, Any]) -> Reason:
    remedy = f"declare in platform {platform}: {json.dumps(declare)[1:-1]}"
    return Reason("no_policy", text, remedy, platform, declare)


def _by_target(asked: Question) -> Reason | None:
    binding = asked.target.binding
    if binding is None:
        return None
    if binding.phase in _NOT_ADMITTED:
        remedy = "wait for its transaction" if binding.phase is Phase.DARK else _admit(asked.target)
        return Reason("not_admitted", f"{binding.node} {_NOT_ADMITTED[binding.phase]}", remedy)
    if binding.phase is Phase.DRAINING and asked.service.protocol == "tcp":
        text = f"{binding.node} is draining: its open connections go on, and it gets no new ones"
        return Reason("draining", text, "use another node of the network")
    return None


def _otherwise(drop: Drop) -> Reason:
    text = f"the intent opens this, and {drop.switch} does not do it: {drop.reason}"
    return Reason("tables_differ", text, "compare the switch with what is decided: odysseyctl fabric diff")
