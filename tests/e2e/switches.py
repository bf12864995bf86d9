# SPDX-License-Identifier: AGPL-3.0-or-later
"""What tests do to a switch behind the controller's back."""

from __future__ import annotations

import asyncio
import subprocess

from odyssey.demo.matrix import Station
from odyssey.demo.world import World

HOLE_PRIORITY = 65000  # above everything that the controller installs


async def ofctl(world: World, switch: str, command: str, *arguments: str) -> None:
    """Run ovs-ofctl on a switch's local management socket."""
    line = ["ovs-ofctl", "-O", "OpenFlow13", *command.split(), f"unix:{world.lab.switches[switch].management_socket}"]
    await asyncio.to_thread(subprocess.run, [*line, *arguments], check=True)


async def open_hole(world: World, source: Station, target: Station) -> None:
    """Let everything pass from a node's host to another node, on every switch."""
    assert source.host is not None and target.host is not None
    port, out = world.lab.settings.host_number(source.host), world.lab.settings.host_number(target.host)
    actions = f"set_field:{target.mac}->eth_dst,load:0->NXM_OF_IN_PORT[],output:{out}"
    for switch in world.lab.switches:
        flow = f"table=0,priority={HOLE_PRIORITY},in_port={port},ip,nw_dst={target.address},actions={actions}"
        await ofctl(world, switch, "add-flow", flow)


async def close_hole(world: World, source: Station, target: Station) -> None:
    """Undo `open_hole`."""
    assert source.host is not None
    port = world.lab.settings.host_number(source.host)
    for switch in world.lab.switches:
        match = f"table=0,priority={HOLE_PRIORITY},in_port={port},ip,nw_dst={target.address}"
        await ofctl(world, switch, "--strict del-flows", match)
