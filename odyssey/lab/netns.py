# SPDX-License-Identifier: AGPL-3.0-or-later
"""Network namespaces, cables between them and the management bridge.

Processes enter a namespace by `nsenter --net`: `ip netns exec` mounts /sys anew and hides the control groups.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odyssey.lab.shell import LabError, run

_FIRST_INDEX = 1 << 24
RUN_NETNS = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class End:
    """One end of a cable: an interface in a namespace."""

    netns: str
    interface: str
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class Cable:
    """Two ends that are joined (a veth pair)."""

    a: End
    b: End


def path(name: str) -> Path:
    """The file by which a namespace is entered."""
    return RUN_NETNS / name


def exists(name: str) -> bool:
    """Tell whether a namespace is there."""
    return path(name).exists()


def inside(name: str, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` in a namespace."""
    return ["nsenter", f"--net={path(name)}", "--", *argv]


def ip(name: str, *commands: str) -> None:
    """Run commands of `ip` in a namespace, in one process. Raises LabError at the first that fails."""
    try:
        run(["ip", "-n", name, "-batch", "-"], stdin="\n".join(commands) + "\n")
    except LabError as error:
        raise LabError(f"{error}; the commands were: {'; '.join(commands)}") from error


def links(name: str) -> dict[str, dict[str, Any]]:
    """The interfaces of a namespace by name, as `ip -json link` describes them."""
    found: list[dict[str, Any]] = json.loads(run(["ip", "-n", name, "-json", "link", "show"]) or "[]")
    return {link["ifname"]: link for link in found}


def create(name: str) -> None:
    """Make a namespace with `lo` up and IPv6 off (no router solicitations on the wire); nothing if it is there."""
    if exists(name):
        return
    run(["ip", "netns", "add", name])
    ip(name, "link set lo up")
    run(inside(name, ["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]))


def delete(name: str) -> None:
    """Remove a namespace with its interfaces; nothing if it is not there."""
    if exists(name):
        run(["ip", "netns", "delete", name])


def connect(cable: Cable) -> None:
    """Lay a cable if it is not there yet, and set both ends up.

    Transmit checksums are computed by the sender: Open vSwitch in user space forwards frames as they are.
    """
    here, there = links(cable.a.netns), links(cable.b.netns)
    if cable.a.interface not in here or cable.b.interface not in there:
        for end, present in ((cable.a, here), (cable.b, there)):
            if end.interface in present:
                ip(end.netns, f"link delete {end.interface}")
        a, b = f"{_described(cable.a)} index {_index(cable.a)}", _described(cable.b)
        ip(cable.a.netns, f"link add {a} type veth peer {b} netns {cable.b.netns}")
        for end in (cable.a, cable.b):
            run(inside(end.netns, ["ethtool", "-K", end.interface, "tx", "off"]))
    for end in (cable.a, cable.b):
        ip(end.netns, f"link set {end.interface} up")


def _index(end: End) -> int:
    """An interface index that the kernel, which counts from 1, gives to nobody else.

    Where both ends of a cable have the same index, the kernel takes the one for a link of its own and tells of its
    carrier up to a second late (net/core/link_watch.c).
    """
    return _FIRST_INDEX + zlib.crc32(end.interface.encode()) % _FIRST_INDEX


def set_link(end: End, *, up: bool) -> None:
    """Set one end up or down; the other end loses its carrier when it goes down."""
    ip(end.netns, f"link set {end.interface} {'up' if up else 'down'}")


def set_address(end: End, address: str) -> None:
    """Give an interface an address with its prefix length; nothing if it has it."""
    ip(end.netns, f"address replace {address} dev {end.interface}")


def create_bridge(name: str, bridge: str, address: str) -> None:
    """Make a Linux bridge with an address in a namespace; nothing if it is there."""
    if bridge not in links(name):
        ip(name, f"link add {bridge} type bridge")
    ip(name, f"link set {bridge} up", f"address replace {address} dev {bridge}")


def join_bridge(end: End, bridge: str) -> None:
    """Make an interface a port of a bridge."""
    ip(end.netns, f"link set {end.interface} master {bridge}")


def processes(name: str) -> tuple[int, ...]:
    """The processes that live in a namespace."""
    try:
        return tuple(int(pid) for pid in run(["ip", "netns", "pids", name]).split())
    except LabError:
        if not exists(name):
            return ()
        raise


def _described(end: End) -> str:
    address = f" address {end.mac}" if end.mac else ""
    return f"name {end.interface}{address}"
