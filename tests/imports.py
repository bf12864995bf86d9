# SPDX-License-Identifier: AGPL-3.0-or-later
"""The import rule between the houses, checked on the syntax trees of all source files.

``python -m tests.imports`` prints one line for each breach and exits 1 if there is one.  The rule and its reason are in
``docs/decisions/0002-house-import-rule.md``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: What each house may import of the other houses.
ALLOWED: Mapping[str, frozenset[str]] = {
    "schemas": frozenset(),
    "rdmp": frozenset({"schemas"}),
    "odyssey": frozenset({"rdmp", "schemas"}),
    "controller": frozenset({"rdmp", "schemas"}),
    "agents": frozenset({"rdmp", "schemas"}),
}

#: Libraries that only one package may import.
CONFINED: Mapping[str, str] = {
    "os_ken": "controller.openflow",
    "docker": "agents.docker",
    "ncclient": "controller.netconf",
    "paramiko": "controller.netconf",
    "microesb": "odyssey.services",
    "jsocket": "rdmp.blocking",
}

#: Libraries that no house may import: they serve the tests.
TESTS_ONLY = frozenset({"pika", "pytest", "hypothesis", "tests"})

LICENCE_LINE = "# SPDX-License-Identifier: AGPL-3.0-or-later"


@dataclass(frozen=True, slots=True)
class Breach:
    """One line of a source file that breaks a rule."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def module_name(path: Path) -> str:
    """Return the dotted name of a module from its path below the project root."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield line and absolute dotted name of everything that a syntax tree imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                keep = len(parents) - node.level + (1 if is_package else 0)
                base = ".".join([*parents[:keep], *([base] if base else [])])
            yield node.lineno, base


def check_source(source: str, path: Path) -> list[Breach]:
    """Return the breaches of one file; `path` is relative to the project root."""
    module = module_name(path)
    house = module.split(".")[0]
    breaches = []
    if source.strip() and not source.startswith((LICENCE_LINE, "#!")):
        breaches.append(Breach(str(path), 1, f"the first line has to be: {LICENCE_LINE}"))
    tree = ast.parse(source, filename=str(path))
    for line, name in imported(tree, module, path.name == "__init__.py"):
        top = name.split(".")[0]
        if house in ALLOWED and top in ALLOWED and top != house and top not in ALLOWED[house]:
            allowed = ", ".join(sorted(ALLOWED[house])) or "no other house"
            breaches.append(Breach(str(path), line, f"{house} imports {name}; it may import {allowed}"))
        if top in CONFINED and house in ALLOWED and not inside(module, CONFINED[top]):
            breaches.append(Breach(str(path), line, f"imports {name}; only {CONFINED[top]} may import {top}"))
        if top in TESTS_ONLY and house in ALLOWED:
            breaches.append(Breach(str(path), line, f"imports {name}, which is there for the tests only"))
    return breaches


def inside(module: str, package: str) -> bool:
    """Tell whether a module is a package or lies below it."""
    return module == package or module.startswith(package + ".")


def check_tree(root: Path, houses: Iterable[str] = (*ALLOWED, "tests")) -> list[Breach]:
    """Return the breaches of all Python files of the given top-level folders."""
    breaches = []
    for house in houses:
        for path in sorted((root / house).rglob("*.py")):
            breaches.extend(check_source(path.read_text(encoding="utf-8"), path.relative_to(root)))
    return breaches


def main() -> int:
    """Print every breach; return the exit code."""
    breaches = check_tree(ROOT)
    for breach in breaches:
        print(breach)
    print(f"import rule: {len(breaches)} breach{'' if len(breaches) == 1 else 'es'}")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
