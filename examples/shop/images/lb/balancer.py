#!/usr/bin/python3 -IS
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Keep HAProxy's servers equal to the neighbours file.

``start`` writes HAProxy's configuration with the neighbours of this moment and becomes HAProxy.  Without an argument
(the `onChange` command) the servers are changed through HAProxy's runtime API; HAProxy neither reloads nor loses a
connection.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEIGHBOURS = Path("/run/odyssey/neighbours.json")
ADMIN_SOCKET = Path("/run/haproxy/admin.sock")
TEMPLATE = Path("/usr/local/etc/haproxy.cfg")
CONFIGURATION = Path("/run/haproxy/haproxy.cfg")

BACKEND = "app"
SLOTS = 64
"""Servers at most: slots are made at start and never during the run."""

FREE_ADDRESS = "0.0.0.0"
MAINTENANCE = 0x23
"""Bits of `srv_admin_state` that mean maintenance (HAProxy 2.6, management guide, `show servers state`)."""

SOCKET_TIMEOUT = 3.0
"""Seconds to wait for HAProxy's runtime API, which is not there in the first moments after the start."""


@dataclass(frozen=True, order=True)
class Target:
    """Where a neighbour serves."""

    address: str
    port: int


@dataclass(frozen=True)
class Slot:
    """One server of HAProxy as it is now."""

    name: str
    target: Target
    ready: bool


def targets(neighbours: Mapping[str, Any]) -> list[Target]:
    """The nodes of all dependencies, each with the first port of its network."""
    found = []
    for network in neighbours.get("dependencies", {}).values():
        ports = [port["port"] for port in network.get("ports", []) if port.get("protocol") == "tcp"]
        if ports:
            found += [Target(node["address"], ports[0]) for node in network.get("nodes", [])]
    return sorted(found)


def configuration(template: str, wanted: Sequence[Target]) -> str:
    """The configuration with a line for each slot. Raises ValueError if there are more neighbours than slots."""
    check_room(wanted)
    lines = [f"    server slot{n} {target.address}:{target.port}" for n, target in enumerate(wanted, 1)]
    lines += [f"    server slot{n} {FREE_ADDRESS}:1 disabled" for n in range(len(wanted) + 1, SLOTS + 1)]
    return template.rstrip() + "\n" + "\n".join(lines) + "\n"


def changes(slots: Sequence[Slot], wanted: Sequence[Target]) -> list[str]:
    """The commands of the runtime API that make the slots serve exactly `wanted`.

    A slot keeps its server as long as that is wanted, so its connections stay; a server that is not wanted gets no new
    connection and keeps the ones it has. New servers come before old ones go, so that one of them is always there.
    Raises ValueError if there are more neighbours than slots.
    """
    check_room(wanted)
    holders: dict[Target, Slot] = {}
    for slot in slots:
        if slot.target in wanted and (slot.target not in holders or slot.ready):
            holders[slot.target] = slot
    commands = [f"set server {BACKEND}/{slot.name} state ready" for slot in holders.values() if not slot.ready]
    kept = {slot.name for slot in holders.values()}
    # Slots that are free come first; only when there are none left, one that still serves is given away.
    others = sorted((slot for slot in slots if slot.name not in kept), key=lambda slot: slot.ready)
    new = [target for target in wanted if target not in holders]
    for target, slot in zip(new, others, strict=False):
        server = f"{BACKEND}/{slot.name}"
        commands += [f"set server {server} state maint"] if slot.ready else []
        commands.append(f"set server {server} addr {target.address} port {target.port}")
        commands.append(f"set server {server} state ready")
    commands += [f"set server {BACKEND}/{slot.name} state maint" for slot in others[len(new) :] if slot.ready]
    return commands


def check_room(wanted: Sequence[Target]) -> None:
    """Raise ValueError if there are more neighbours than slots."""
    if len(wanted) > SLOTS:
        raise ValueError(f"{len(wanted)} neighbours, but HAProxy was started with {SLOTS} slots")


def parse_slots(text: str) -> list[Slot]:
    """Read the answer to `show servers state`."""
    lines = [line for line in text.splitlines() if line.strip()]
    columns = next(line for line in lines if line.startswith("#")).lstrip("# ").split()
    slots = []
    for line in lines:
        if not line.startswith("#") and len(line.split()) == len(columns):
            row = dict(zip(columns, line.split(), strict=True))
            ready = not int(row["srv_admin_state"]) & MAINTENANCE
            slots.append(Slot(row["srv_name"], Target(row["srv_addr"], int(row["srv_port"])), ready))
    return slots


def ask(command: str) -> str:
    """Give one command to HAProxy and return its answer."""
    deadline = time.monotonic() + SOCKET_TIMEOUT
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SOCKET_TIMEOUT)
            try:
                connection.connect(str(ADMIN_SOCKET))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
                continue
            connection.sendall(command.encode() + b"\n")
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer.decode()


def execute(commands: Iterable[str]) -> None:
    """Give commands to HAProxy; raises RuntimeError with its words if it refuses one.

    HAProxy answers a change of an address with a line that tells it, and everything else that it does with nothing.
    """
    for command in commands:
        answer = ask(command).strip()
        if answer and " addr " not in command:
            raise RuntimeError(f"HAProxy refused {command!r}: {answer}")


def read_neighbours() -> Mapping[str, Any]:
    """The neighbours document; empty if there is none."""
    try:
        document: Mapping[str, Any] = json.loads(NEIGHBOURS.read_text(encoding="utf-8"))
    except FileNotFoundError:
        print(f"{NEIGHBOURS} is missing: starting without neighbours", file=sys.stderr)
        return {}
    return document


def start() -> None:
    """Write the configuration and become HAProxy."""
    neighbours = read_neighbours()
    template = TEMPLATE.read_text(encoding="utf-8")
    CONFIGURATION.write_text(configuration(template, targets(neighbours)), encoding="utf-8")
    environment = {**os.environ, "NODE": str(neighbours.get("node", socket.gethostname()))}
    sys.stderr.flush()
    os.execve("/usr/sbin/haproxy", ["haproxy", "-db", "-f", str(CONFIGURATION)], environment)


def apply() -> None:
    """Change the running HAProxy, then check that it is as the file says."""
    wanted = targets(read_neighbours())
    execute(changes(parse_slots(ask(f"show servers state {BACKEND}")), wanted))
    left = changes(parse_slots(ask(f"show servers state {BACKEND}")), wanted)
    if left:
        raise RuntimeError(f"HAProxy is not as {NEIGHBOURS} says; still to do: {'; '.join(left)}")
    print(f"{len(wanted)} servers: {', '.join(target.address for target in wanted) or 'none'}")


def main() -> int:
    """Carry out one command; return the exit code."""
    try:
        start() if sys.argv[1:] == ["start"] else apply()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"balancer: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
