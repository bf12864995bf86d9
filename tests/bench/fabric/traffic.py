# SPDX-License-Identifier: AGPL-3.0-or-later
"""Throughput and latency from container to container through the switch, beside a VXLAN overlay over the same switch.

The overlay is what container engines build: each container's veth in a bridge of its host, the bridges joined by the
kernel's vxlan devices over the hosts' NICs, whose frames the same Open vSwitch forwards by their MAC addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.fabric import intents
from tests.bench.fabric.support import Fabric, Json, Sizes, fabric, folder
from tests.bench.rdmp.support import BenchError, Child, children, processor_seconds
from tests.integration.controller_support import PREFIX, Lab, inside, run, wait_until

HOSTS = {"h1": "192.0.2.1", "h2": "192.0.2.2"}
CONTAINERS = {"h1": "198.51.100.1", "h2": "198.51.100.2"}
VXLAN_OVERHEAD = 50  # bytes: outer Ethernet, IPv4, UDP and VXLAN headers (RFC 7348)
MTU = 1500
SWITCH = "sw1"
TCP_PORT = intents.PORTS["lb", "app"]
UDP_PORT = intents.PROBE_PORT
NODES = 10  # of the intent; two of them are real


@dataclass(frozen=True, slots=True)
class Way:
    """One way from a namespace to an address in another."""

    name: str
    source: str
    target: str
    address: str


def measure(sizes: Sizes) -> list[Json]:
    """Rows for each way; all are measured in turn, ``traffic_repeats`` times."""
    return asyncio.run(_all(sizes))


async def _all(sizes: Sizes) -> list[Json]:
    with folder() as where:
        async with fabric(where, NODES) as made:
            await asyncio.to_thread(_overlay, made.lab)
            ways = _ways(made)
            found: dict[str, list[Json]] = {way.name: [] for way in ways}
            for _ in range(sizes.traffic_repeats):
                for way in ways:
                    found[way.name].append(await asyncio.to_thread(_once, made.lab, way, sizes))
    return [_row(name, rows) for name, rows in found.items()]


def _ways(made: Fabric) -> list[Way]:
    return [
        Way("Odyssey: container to container", made.asking["node"], made.asked["node"], made.asked["address"]),
        Way("VXLAN overlay over the same switch", "ovl-h1", "ovl-h2", CONTAINERS["h2"]),
        Way("host to host, for comparison", "h1", "h2", HOSTS["h2"]),
    ]


def _overlay(lab: Lab) -> None:
    """Give both hosts addresses, let the switch forward between them, and build the overlay on that."""
    switch = lab.switches[SWITCH]
    for here, there in (("h1", "h2"), ("h2", "h1")):
        macs = {host: json.loads(inside(host, "ip", "-j", "link", "show", "eth0"))[0]["address"] for host in HOSTS}
        ports = {host: int(host[1:]) for host in HOSTS}
        what = f"cookie=1,table=0,priority=900,in_port={ports[here]},dl_dst={macs[there]}"
        switch.ofctl("add-flow", f"{what},actions=output:{ports[there]}")
        inside(here, "ip", "addr", "add", f"{HOSTS[here]}/24", "dev", "eth0")
        neighbour = (HOSTS[there], "lladdr", macs[there], "dev", "eth0", "nud", "permanent")
        inside(here, "ip", "neigh", "replace", *neighbour)
        outer = ("local", HOSTS[here], "remote", HOSTS[there], "dev", "eth0", "dstport", "4789")
        inside(here, "ip", "link", "add", "vxlan0", "type", "vxlan", "id", "7", *outer)
        inside(here, "ip", "link", "add", "bridge0", "type", "bridge")
        container = f"ovl-{here}"
        run("ip", "netns", "add", f"{PREFIX}{container}")
        peer = ("peer", "name", "eth0", "netns", f"{PREFIX}{container}")
        inside(here, "ip", "link", "add", "veth0", "type", "veth", *peer)
        for name in ("vxlan0", "veth0"):
            inside(here, "ip", "link", "set", name, "master", "bridge0", "mtu", str(MTU - VXLAN_OVERHEAD), "up")
        inside(here, "ip", "link", "set", "bridge0", "up")
        inside(container, "ip", "addr", "add", f"{CONTAINERS[here]}/24", "dev", "eth0")
        inside(container, "ip", "link", "set", "eth0", "mtu", str(MTU - VXLAN_OVERHEAD), "up")


@contextlib.contextmanager
def _iperf_server(netns: str) -> Iterator[None]:
    command = ["nsenter", f"--net=/run/netns/{PREFIX}{netns}", "iperf3", "-s", "-p", str(TCP_PORT)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: f":{TCP_PORT} " in inside(netns, "ss", "-Hltn"), "iperf3 listens")
        yield
    finally:
        server.terminate()
        server.wait(5)


def _once(lab: Lab, way: Way, sizes: Sizes) -> Json:
    daemon = lab.switches[SWITCH].pid("ovs-vswitchd")
    with _iperf_server(way.target):
        before = processor_seconds([daemon])
        seconds = str(sizes.traffic_seconds)
        answer = inside(way.source, "iperf3", "-c", way.address, "-p", str(TCP_PORT), "-t", seconds, "-J")
        cpu = processor_seconds([daemon]) - before
    received = json.loads(answer)["end"]["sum_received"]
    if not received["bytes"]:
        raise BenchError(f"{way.name}: nothing arrived")
    latency = _latency(way, sizes.pings)
    return {"bits": received["bits_per_second"], "switch_cpu_gb": cpu / received["bytes"] * 1e9, "latency": latency}


def _latency(way: Way, count: int) -> Json:
    ends = {True: way.target, False: way.source}
    with children() as started:
        for answers, netns in ends.items():
            place = {"netns": f"/run/netns/{PREFIX}{netns}", "address": way.address, "port": UDP_PORT}
            started.append(Child("pingpong", {**place, "answers": answers}, package="tests.bench.fabric"))
            started[-1].answer()
        return started[1].ask("ask", count=count)


def _row(name: str, rows: list[Json]) -> Json:
    def median(values: list[float]) -> float:
        return statistics.median(values)

    return {
        "name": name,
        "mbit": round(median([row["bits"] for row in rows]) / 1e6),
        "mbit_least": round(min(row["bits"] for row in rows) / 1e6),
        "mbit_most": round(max(row["bits"] for row in rows) / 1e6),
        "switch_cpu_s_per_gb": round(median([row["switch_cpu_gb"] for row in rows]), 2),
        "rtt_p50_us": round(median([row["latency"]["p50_ms"] for row in rows]) * 1000),
        "rtt_p99_us": round(median([row["latency"]["p99_ms"] for row in rows]) * 1000),
    }
