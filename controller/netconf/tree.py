# SPDX-License-Identifier: AGPL-3.0-or-later
"""Configuration as values: what a device holds, what differs from a wish, and the XML between them.  Pure.

A ``Tree`` maps the path of each container and list entry to its leaves, so that reading, comparing and rendering are
the same for every data model.  A path is written for people as an instance identifier (RFC 7950, section 9.13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

BASE = "urn:ietf:params:xml:ns:netconf:base:1.0"
OPERATION = f"{{{BASE}}}operation"

Element = ElementTree.Element
Value = str | tuple[str, ...]
"""A leaf's text, or the sorted texts of a leaf-list."""
Node = Mapping[str, Value]
"""The leaves of a container or list entry by tag, the keys of the entry left out."""


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One element of a path; ``tag`` is ``{namespace}name``, ``key`` the value of the key of a list entry."""

    tag: str
    key: str | None = None

    def __str__(self) -> str:
        name = local(self.tag)
        return name if self.key is None else f"{name}[{self.key}]"


Path = tuple[Step, ...]
Tree = Mapping[Path, Node]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the XML of a data model does not tell by itself: lists with the tag of their key, and leaf-lists.

    The values of a leaf-list in ``items`` are entries of their own, so that single ones can be ours.
    """

    lists: Mapping[str, str]
    leaf_lists: frozenset[str] = frozenset()
    items: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Change:
    """One leaf or list entry that differs, for people.

    ``op`` is ``+`` (missing on the device), ``~`` (other than it shall be) or ``-`` (shall not be there); ``has`` is
    what the device holds and ``shall`` what it shall hold, None for nothing and for a whole entry.
    """

    op: str
    path: str
    has: str | None = None
    shall: str | None = None

    def __str__(self) -> str:
        value = {"+": self.shall, "-": self.has}.get(self.op, f"{self.has} -> {self.shall}")
        return f"{self.op} {self.path}" if value is None else f"{self.op} {self.path} = {value}"

    def to_json(self) -> dict[str, str | None]:
        """The change as JSON."""
        return {"op": self.op, "path": self.path, "has": self.has, "shall": self.shall}


@dataclass(frozen=True, slots=True)
class Difference:
    """What has to be done to a device: leaves to set and to clear, list entries to remove.

    A path in ``replace`` is a container that is sent whole in place of what is there.  ``was`` is what the device holds
    at the paths where leaves change; it is for people.
    """

    set: Mapping[Path, Node] = field(default_factory=dict)
    clear: Mapping[Path, frozenset[str]] = field(default_factory=dict)
    remove: frozenset[Path] = frozenset()
    replace: frozenset[Path] = frozenset()
    was: Mapping[Path, Node] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.set or self.clear or self.remove)

    def paths(self) -> Iterator[Path]:
        """Every path that is touched."""
        yield from self.set
        yield from self.clear
        yield from self.remove

    def changes(self) -> list[Change]:
        """The difference for people, one for each leaf or entry: what is set, then what is cleared and removed."""
        found: list[Change] = []
        for path, node in self.set.items():
            old = self.was.get(path, {})
            found += _set(path, node, old, whole=path in self.replace)
        for path, tags in self.clear.items():
            found += [_cleared(path, tag, self.was.get(path, {})) for tag in sorted(tags)]
        return found + [Change("-", text(path)) for path in sorted(self.remove)]

    def lines(self) -> list[str]:
        """The same as texts."""
        return list(map(str, self.changes()))


def _set(path: Path, node: Node, old: Node, *, whole: bool) -> Iterator[Change]:
    """What setting leaves changes; of a container that is sent whole also what goes with it."""
    if not node and not old:
        yield Change("+", text(path))
    for tag, value in node.items():
        has, shall = old.get(tag), _shown(value)
        if has is None:
            yield Change("+", _leaf(path, tag), None, shall)
        elif has != value:
            yield Change("~", _leaf(path, tag), _shown(has), shall)
    if whole:
        yield from (_cleared(path, tag, old) for tag in sorted(old.keys() - node.keys()))


def _cleared(path: Path, tag: str, old: Node) -> Change:
    return Change("-", _leaf(path, tag), _shown(old[tag]) if tag in old else None)


def _leaf(path: Path, tag: str) -> str:
    return f"{text(path)}/{local(tag)}"


def local(tag: str) -> str:
    """The name in ``{namespace}name``."""
    return tag.rpartition("}")[2]


def text(path: Path) -> str:
    """A path for people."""
    return "/" + "/".join(map(str, path))


def _shown(value: Value) -> str:
    return value if isinstance(value, str) else ",".join(value)


def read(data: Element, shape: Shape) -> dict[Path, Node]:
    """The tree of the children of ``data``, the ``<data>`` of a reply."""
    tree: dict[Path, Node] = {}
    for child in data:
        _read(child, (), shape, tree)
    return tree


def _read(element: Element, above: Path, shape: Shape, tree: dict[Path, Node]) -> None:
    key_tag = shape.lists.get(element.tag)
    key = None if key_tag is None else (element.findtext(key_tag) or "").strip()
    path = (*above, Step(element.tag, key))
    leaves: dict[str, Value] = {}
    for child in element:
        if child.tag in shape.items:
            tree[(*path, Step(child.tag, (child.text or "").strip()))] = {}
        elif child.tag in shape.leaf_lists:
            leaves[child.tag] = tuple(sorted({*leaves.get(child.tag, ()), (child.text or "").strip()}))
        elif len(child) or child.tag in shape.lists:
            _read(child, path, shape, tree)
        elif child.tag != key_tag and (content := (child.text or "").strip()):
            leaves[child.tag] = content  # what is empty may as well be a container without content
    if leaves or key is not None:
        tree[path] = leaves


def difference(
    have: Tree,
    want: Tree,
    removable: Callable[[Path], bool],
    atomic: Callable[[Path], bool] = lambda path: False,
    *,
    exact: bool = False,
) -> Difference:
    """What makes ``have`` into ``want``.

    Leaves that ``want`` does not name are left alone, or cleared where the difference is ``exact``; entries that it
    does not name go where ``removable`` says so.  A container for which ``atomic`` says so is compared and sent whole.
    """
    changed: dict[Path, Node] = {}
    replace = set()
    for path, node in want.items():
        old = have.get(path)
        leaves = {tag: value for tag, value in node.items() if old is None or old.get(tag) != value}
        if atomic(path) and node != (old or {}):
            replace.add(path)
            changed[path] = node
        elif leaves or (old is None and path[-1].key is not None):
            changed[path] = leaves
    # A leaf-list cannot be cleared without its values (RFC 6020, section 7.7.7): a container that has one goes whole.
    gone = _topmost(
        path
        for path in have
        if path not in want and ((path[-1].key is not None and removable(path)) or (exact and atomic(path)))
    )
    clear: dict[Path, frozenset[str]] = {}
    for path, node in have.items() if exact else ():
        extra = frozenset(node.keys() - want.get(path, {}).keys())
        if extra and path not in replace and path not in gone and not _below(path, gone):
            clear[path] = extra
    was = {path: have[path] for path in (*changed, *clear) if path in have}
    return Difference(changed, clear, gone, frozenset(replace), was)


def _topmost(paths: Iterable[Path]) -> frozenset[Path]:
    found = set(paths)
    return frozenset(path for path in found if not _below(path, found))


def _below(path: Path, tops: Iterable[Path] | frozenset[Path]) -> bool:
    """Tell whether a path lies below one of ``tops``."""
    among = tops if isinstance(tops, set | frozenset) else set(tops)
    return any(path[:length] in among for length in range(1, len(path)))


def render(done: Difference, shape: Shape) -> Element:
    """The ``<config>`` of an edit-config that carries out a difference (RFC 6241, section 7.2)."""
    config = ElementTree.Element(f"{{{BASE}}}config")
    made: dict[Path, Element] = {(): config}
    # Removals first: a server that obeys in order has room for what takes their place.
    for path in sorted(done.remove):
        _element(path, made, shape).set(OPERATION, "remove")
    for path, tags in done.clear.items():
        for tag in sorted(tags):
            ElementTree.SubElement(_element(path, made, shape), tag).set(OPERATION, "remove")
    for path, node in done.set.items():
        element = _element(path, made, shape)
        if path in done.replace:
            element.set(OPERATION, "replace")
        for tag, value in node.items():
            for item in (value,) if isinstance(value, str) else value:
                ElementTree.SubElement(element, tag).text = item
    return config


def _element(path: Path, made: dict[Path, Element], shape: Shape) -> Element:
    if (found := made.get(path)) is not None:
        return found
    step = path[-1]
    element = made[path] = ElementTree.SubElement(_element(path[:-1], made, shape), step.tag)
    if step.tag in shape.items:
        element.text = step.key
    elif step.key is not None:
        ElementTree.SubElement(element, shape.lists[step.tag]).text = step.key
    return element


def pieces(done: Difference, shape: Shape, limit: int, rank: Callable[[Path], int]) -> list[Difference]:
    """Cut a difference into parts of at most about ``limit`` bytes of XML that may be sent one after the other.

    What is set comes by rising ``rank`` and before what is removed.
    """
    units: dict[tuple[int, Path], Difference] = {}
    for path in sorted({*done.set, *done.clear, *done.remove}, key=lambda path: (rank(path), path)):
        gone = path in done.remove
        where = (1 << 16 if gone else rank(path), _unit(path))
        old = units.get(where, Difference())
        units[where] = Difference(
            {**old.set, **({path: done.set[path]} if path in done.set else {})},
            {**old.clear, **({path: done.clear[path]} if path in done.clear else {})},
            old.remove | ({path} if gone else frozenset()),
            old.replace | (done.replace & {path}),
        )
    parts: list[Difference] = []
    size = limit
    for where in sorted(units):
        unit = units[where]
        length = len(ElementTree.tostring(render(unit, shape)))
        if size + length > limit:
            parts.append(unit)
            size = length
        else:
            parts[-1] = _joined(parts[-1], unit)
            size += length
    return parts


def _unit(path: Path) -> Path:
    """The part of a path down to its first list entry."""
    for length, step in enumerate(path, 1):
        if step.key is not None:
            return path[:length]
    return path


def _joined(one: Difference, other: Difference) -> Difference:
    return Difference(
        {**one.set, **other.set}, {**one.clear, **other.clear}, one.remove | other.remove, one.replace | other.replace
    )


def canonical(element: Element) -> str:
    """The same text for the same configuration, whatever the order and the spaces."""
    parts = sorted(canonical(child) for child in element)
    return f"<{element.tag}>{(element.text or '').strip()}{''.join(parts)}</>"
