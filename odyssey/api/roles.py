# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who may do what: roles on service, platform and network. Values in, a verdict out."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Subject(Protocol):
    """Whoever asks; `rdmp.tls.Identity` is one."""

    @property
    def role(self) -> str: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Permission:
    """What is asked for.

    `service` is a service id (`addNode`), an RPC method (`node.list`) or `publish:<topic>`. An empty `platform` or
    `network` means that the request concerns none; only an allowance for `*` covers that.
    """

    service: str
    platform: str = ""
    network: str = ""

    def __str__(self) -> str:
        where = "/".join(part for part in (self.platform, self.network) if part)
        return f"{self.service} on {where}" if where else self.service


@dataclass(frozen=True, slots=True)
class Allowance:
    """Patterns (`*`, `?`) that must all match a permission."""

    services: tuple[str, ...]
    platforms: tuple[str, ...] = ("*",)
    networks: tuple[str, ...] = ("*",)

    def covers(self, permission: Permission) -> bool:
        """Whether the permission is among what this allows."""
        return (
            _matches(self.services, permission.service)
            and _matches(self.platforms, permission.platform)
            and _matches(self.networks, permission.network)
        )


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of allowances and the subjects (`<role>/<name>` patterns) that hold it."""

    name: str
    subjects: tuple[str, ...]
    allow: tuple[Allowance, ...] = field(default=())

    def held_by(self, subject: Subject) -> bool:
        """Whether `subject` has this role."""
        return _matches(self.subjects, f"{subject.role}/{subject.name}")

    @classmethod
    def from_document(cls, name: str, document: Mapping[str, Any]) -> Role:
        """Read `{"subjects": [...], "allow": [{"services": [...], "platforms": [...], "networks": [...]}]}`.

        Left out `platforms` or `networks` mean all. Raises ValueError that names the faulty part.
        """
        if not isinstance(document, Mapping):
            raise ValueError(f"role {name}: found {document!r}, must be a table with subjects and allow")
        if unknown := sorted(set(document) - {"subjects", "allow"}):
            raise ValueError(f"role {name}: unknown field {unknown[0]!r}; allowed are subjects, allow")
        subjects = _patterns(name, "subjects", document.get("subjects"))
        for pattern in subjects:
            if "/" not in pattern:
                raise ValueError(f"role {name}: subject {pattern!r} must look like operator/alice or operator/*")
        allow = document.get("allow")
        if not isinstance(allow, list) or not all(isinstance(entry, Mapping) for entry in allow):
            raise ValueError(f"role {name}: allow must be a list of objects")
        return cls(name, subjects, tuple(_allowance(name, entry) for entry in allow))


class Forbidden(Exception):
    """The subject lacks a permission; the text names both."""

    def __init__(self, subject: Subject, permission: Permission) -> None:
        super().__init__(
            f"{subject.role}/{subject.name} has no permission for {permission}: "
            f"a role must allow service {permission.service!r}"
            + (f", platform {permission.platform!r}" if permission.platform else "")
            + (f", network {permission.network!r}" if permission.network else "")
        )
        self.permission = permission


_PARTICIPANT = ("participant:*", "publish:participant.*")
READING = (
    "status", "*.list", "*.show", "*.get", "*.logs", "fabric.*", "switch.flows", "switch.ports", "switch.cabling",
    "netconf.diff", "netconf.backups", "subscribe:*",
)  # fmt: skip
"""What only looks: `@reading` in the services of a role document stands for it. A probe of a switch is not among it."""
_READING_WORD = "@reading"

DEFAULT_ROLES: tuple[Role, ...] = (
    Role("operator", ("operator/*",), (Allowance(("*",)),)),
    Role("publisher", ("publisher/*",), (Allowance(("publish:scaling.*",)),)),
    Role("agent", ("agent/*",), (Allowance((*_PARTICIPANT, "publish:node.*")),)),
    Role("controller", ("controller/*",), (Allowance((*_PARTICIPANT, "publish:switch.*")),)),
    Role("netconf", ("netconf/*",), (Allowance((*_PARTICIPANT, "publish:netconf.*")),)),
)
"""What holds without any role document. A participant votes and tells what it sees; it asks for no change."""


def authorise(subject: Subject, permission: Permission, roles: Iterable[Role] = DEFAULT_ROLES) -> None:
    """Return if one of `roles` allows `permission` to `subject`; else raise Forbidden."""
    for role in roles:
        if role.held_by(subject) and any(allowance.covers(permission) for allowance in role.allow):
            return
    raise Forbidden(subject, permission)


def roles_from_documents(documents: Mapping[str, Mapping[str, Any]]) -> tuple[Role, ...]:
    """The default roles with those of `documents` (name -> document) added or in their place. Raises ValueError."""
    merged = {role.name: role for role in DEFAULT_ROLES}
    merged.update({name: Role.from_document(name, document) for name, document in sorted(documents.items())})
    return tuple(merged.values())


def _allowance(role: str, entry: Mapping[str, Any]) -> Allowance:
    unknown = sorted(set(entry) - {"services", "platforms", "networks"})
    if unknown:
        raise ValueError(f"role {role}: unknown field {unknown[0]!r}; allowed are services, platforms, networks")
    services = _patterns(role, "services", entry.get("services"))
    return Allowance(
        tuple(each for one in services for each in (READING if one == _READING_WORD else (one,))),
        _patterns(role, "platforms", entry.get("platforms", ["*"])),
        _patterns(role, "networks", entry.get("networks", ["*"])),
    )


def _patterns(role: str, field_name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"role {role}: {field_name} must be a list of at least one name or pattern")
    return tuple(value)


def _matches(patterns: Iterable[str], value: str) -> bool:
    return any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)
