# SPDX-License-Identifier: AGPL-3.0-or-later
"""The cables and ports of the lab, computed from its settings.

::

    edge --- sw1 ===trunk=== sw2        host i: eth0 on port i of sw1, eth1 on port i of sw2
             | \\            / |         trunk: port 101 on both; edge: port 201 of sw1
            eth0 \\--hosts--/ eth1      management: one bridge that every host and switch hangs on
"""

from __future__ import annotations

from odyssey.lab.netns import Cable, End
from odyssey.lab.settings import Settings

TRUNK_PORT = 101
EDGE_PORT = 201

BRIDGE = "br-mgmt"
MANAGEMENT_NIC = "mgmt0"
EDGE_NIC = "edge0"
EDGE_MAC = "02:cc:00:00:00:01"
EDGE_ADDRESS = "203.0.113.2/24"
"""The border client's address (RFC 5737, TEST-NET-3)."""
EDGE_GATEWAY = "203.0.113.1"


def nic(number: int) -> str:
    """The name of a host's network card; `number` counts from 0."""
    return f"eth{number}"


def attachment(settings: Settings, host: str, number: int) -> Cable:
    """The cable between a host's card and its switch (card 0: the first switch)."""
    switch = settings.switches[number]
    mac = f"02:aa:00:00:{settings.host_number(host):02x}:{number + 1:02x}"
    return Cable(End(settings.netns(host), nic(number), mac), End(settings.netns(switch), f"p-{host}"))


def management(settings: Settings, name: str) -> Cable:
    """The cable between a host or switch and the management bridge."""
    return Cable(End(settings.netns(name), MANAGEMENT_NIC), End(settings.netns("mgmt"), f"m-{name}"))


def trunk(settings: Settings) -> Cable:
    """The cable between the two switches."""
    first, second = settings.switches
    return Cable(End(settings.netns(first), f"t-{second}"), End(settings.netns(second), f"t-{first}"))


def edge(settings: Settings) -> Cable:
    """The cable between the border client and the first switch."""
    return Cable(
        End(settings.netns("edge"), EDGE_NIC, EDGE_MAC), End(settings.netns(settings.switches[0]), "p-edge")
    )


def fabric_cables(settings: Settings) -> tuple[Cable, ...]:
    """All cables that end on a switch's data port."""
    hosts = [
        attachment(settings, host, number) for host in settings.hosts for number in range(len(settings.switches))
    ]
    return (*hosts, trunk(settings), edge(settings))


def switch_ports(settings: Settings, switch: str) -> dict[str, int]:
    """The data ports of a switch: interface name to OpenFlow port number."""
    ports = {f"p-{host}": settings.host_number(host) for host in settings.hosts}
    (other,) = (name for name in settings.switches if name != switch)
    ports[f"t-{other}"] = TRUNK_PORT
    if switch == settings.switches[0]:
        ports["p-edge"] = EDGE_PORT
    return ports
