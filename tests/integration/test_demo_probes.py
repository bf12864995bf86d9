# SPDX-License-Identifier: AGPL-3.0-or-later
"""The demo's probes are shown a network that lets everything through, and one that lets nothing through.

A probe that cannot find a leak is a defect: so each undeclared frame must be found where a bridge floods it, and
without a way through the run must say that it could not tell.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from odyssey.demo import load, matrix, policy, web
from odyssey.demo.matrix import Rule, Station
from odyssey.demo.sniffer import Tap

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

SWITCH = "dmo-sw"
FABRIC_MAC = "02:fa:00:00:00:01"
RULES = (Rule("edge", "lb", "tcp", 80), Rule("lb", "app", "tcp", 8080), Rule("app", "db", "tcp", 5432))
# name, network, address, host ("" for the border)
PLACES = (
    ("dmo-lb1", "lb", "10.99.0.1", "h1"),
    ("dmo-app1", "app", "10.99.0.2", "h1"),
    ("dmo-app2", "app", "10.99.0.3", "h2"),
    ("dmo-db1", "db", "10.99.0.4", "h2"),
    ("dmo-edge", "edge", "10.99.0.5", ""),
)
SERVER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"app": "dmo", "db": self.path.strip("/")}).encode()
        self.send_response(200 if self.path != "/broken" else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
server = Server((sys.argv[1], int(sys.argv[2])), Handler)
print("ready", flush=True)
server.serve_forever()
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def mac(address: str) -> str:
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def namespaces() -> list[str]:
    return [SWITCH, *(place[0] for place in PLACES)]


def remove() -> None:
    for name in namespaces():
        subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture
def stations() -> Iterator[tuple[Station, ...]]:
    """Five namespaces on one Linux bridge that floods: the worst switch there is."""
    remove()
    made = []
    try:
        ip("netns", "add", SWITCH)
        ip("-n", SWITCH, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "ageing_time", "0")
        ip("-n", SWITCH, "link", "set", "br0", "up")
        for number, (name, network, address, host) in enumerate(PLACES):
            ip("netns", "add", name)
            ip("link", "add", "fab0", "netns", name, "address", mac(address), "type", "veth",
               "peer", "name", f"p{number}", "netns", SWITCH)  # fmt: skip
            ip("-n", SWITCH, "link", "set", f"p{number}", "master", "br0", "up")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "fab0", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "fab0")
            namespace = Path("/run/netns", name)
            made.append(Station(name, network, address, mac(address), namespace, ("fab0",), host or None))
        yield tuple(made)
    finally:
        remove()


@contextlib.contextmanager
def serving(station: Station, port: int) -> Iterator[subprocess.Popen[str]]:
    command = ["nsenter", f"--net={station.namespace}", sys.executable, "-c", SERVER, station.address, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def close(*ports: int) -> None:
    for port in ports:
        ip("-n", SWITCH, "link", "set", f"p{port}", "down")


async def test_a_switch_that_floods_is_caught_at_every_single_probe(stations: Sequence[Station]) -> None:
    result = await policy.send_matrix(stations, RULES, (), fabric_mac=FABRIC_MAC, tags=(120, 4000))

    assert result.sound
    assert len(result.leaks) == sum(result.denied.values())
    assert {leak.kind for leak in result.leaks} == {
        "tcp to an undeclared port",
        "udp to an undeclared port",
        "connection from a service port",
        "ping",
        "forged source",
        "later fragment",
        "VLAN tag",
        "broadcast",
        "multicast",
    }
    assert not result.holds


async def test_a_standby_that_is_heard_or_reached_is_a_leak(stations: Sequence[Station]) -> None:
    standby = Station(**{**{name: getattr(stations[2], name) for name in Station.__slots__}, "admitted": False})
    world = (*stations[:2], standby, *stations[3:])

    result = await policy.send_matrix(world, RULES, (), fabric_mac=FABRIC_MAC, tags=())

    found = [leak for leak in result.leaks if leak.kind == "standby"]
    assert any(leak.text.startswith("udp dmo-app2 -> ") for leak in found)
    assert any(leak.text.startswith("tcp dmo-lb1 -> dmo-app2:8080") for leak in found)
    assert any(leak.text.startswith("tcp dmo-app2 -> dmo-db1:5432") for leak in found)


async def test_a_leak_to_a_host_is_seen_even_if_no_node_takes_the_frame(stations: Sequence[Station]) -> None:
    tap = Tap("host port", Path("/run/netns", SWITCH), "p3")
    result = await policy.send_matrix(stations[:2], RULES, [tap], fabric_mac=FABRIC_MAC, tags=())

    # What the bridge sends out of p3 is heard by dmo-db1 only, which is no station here; the tap hears what comes in.
    assert all("host port" not in leak.places for leak in result.leaks)
    tap = Tap("dmo-db1 as host", stations[3].namespace, "fab0")
    result = await policy.send_matrix(stations[:2], RULES, [tap], fabric_mac=FABRIC_MAC, tags=())
    assert result.leaks
    assert all("dmo-db1 as host" in leak.places for leak in result.leaks)


async def test_without_a_way_through_the_probes_say_that_they_cannot_tell(stations: Sequence[Station]) -> None:
    close(*range(len(PLACES)))

    result = await policy.send_matrix(stations, RULES, (), fabric_mac=FABRIC_MAC, tags=())

    assert result.leaks == ()
    assert len(result.controls_unseen) == result.controls > 0
    assert not result.sound
    assert not result.holds


async def test_connections_declared_and_undeclared(stations: Sequence[Station]) -> None:
    with serving(stations[1], 8080), serving(stations[2], 8080), serving(stations[3], 5432), serving(stations[0], 80):
        assert await policy.connect_declared(stations, RULES) == ((), 5)
        tried, leaks = await policy.connect_undeclared(stations, RULES)
    assert len(leaks) == tried
    assert any("dmo-lb1 -> dmo-db1:5432 was accepted" in leak.text for leak in leaks)

    failed, connected = await policy.connect_declared(stations, RULES)
    assert (len(failed), connected) == (5, 0)
    _, leaks = await policy.connect_undeclared(stations, RULES)
    assert all("was refused by the target" in leak.text for leak in leaks)

    close(3)
    tried, leaks = await policy.connect_undeclared((stations[0], stations[3]), RULES)
    assert (tried, leaks) == (2, ())


async def test_one_request_from_inside_a_namespace(stations: Sequence[Station]) -> None:
    edge, lb = stations[4], stations[0]
    with serving(lb, 80):
        answer = await web.get(edge.namespace, lb.address, path="/pg")
        assert (answer.status, answer.body) == (200, b'{"app": "dmo", "db": "pg"}')
        assert (await web.get(edge.namespace, lb.address, path="/broken")).status == 503
    with pytest.raises(web.WebError, match=r"GET http://10\.99\.0\.1:80/: .*Connect call failed"):
        await web.get(edge.namespace, lb.address)
    close(4)
    with pytest.raises(web.WebError, match="no answer in time"):
        await web.get(edge.namespace, lb.address, timeout=0.5)


async def test_the_load_counts_every_request_and_says_which_failed(stations: Sequence[Station]) -> None:
    edge, lb = stations[4], stations[0]
    urls = [f"http://{lb.address}/pg"]
    with serving(lb, 80) as server:
        async with load.Load(edge.namespace, urls, rate=100, timeout=2, fields=("app", "db")) as running:
            await running.phase("healthy")
            await running.reaches("healthy", 40)
            server.kill()
            server.wait()
            await running.phase("dead")
            await running.reaches("dead", 20)
            counts = await running.finish()

    assert counts.sent == counts.ok + counts.failed
    assert counts.of("healthy").ok >= 39
    assert counts.of("dead").failed >= 20
    assert counts.of("dead").ok == 0
    assert len(counts.of("dead").failures) == counts.of("dead").failed
    assert "refused" in counts.of("dead").failures[-1]
    assert counts.servers == {"dmo": counts.ok}


async def test_an_answer_that_lacks_a_tier_is_a_failed_request(stations: Sequence[Station]) -> None:
    edge, lb = stations[4], stations[0]
    with serving(lb, 80):
        urls = [f"http://{lb.address}/"]  # this server answers with an empty "db"
        async with load.Load(edge.namespace, urls, rate=50, timeout=2, fields=("app", "db")) as running:
            await running.reaches("start", 5)
            counts = await running.finish()
        async with load.Load(edge.namespace, [f"http://{lb.address}/broken"], rate=50, timeout=2) as running:
            await running.reaches("start", 5)
            broken = await running.finish()
    assert counts.ok == 0 and counts.failed == counts.sent >= 5
    assert "the body lacks" in counts.failures[0]
    assert broken.ok == 0 and "status 503" in broken.failures[0]


async def test_requests_that_get_no_answer_fail_by_their_timeout(stations: Sequence[Station]) -> None:
    edge, lb = stations[4], stations[0]
    close(0)
    async with load.Load(edge.namespace, [f"http://{lb.address}/"], rate=40, timeout=0.5) as running:
        await running.reaches("start", 5)
        counts = await running.finish()
    assert counts.ok == 0 and counts.failed == counts.sent >= 5
    assert any("timed out" in text for text in counts.failures)


def test_the_matrix_tells_declared_from_undeclared() -> None:
    platform = {
        "networks": {
            "lb": {"vlan": 110, "dependsOn": {"app": {"ports": [{"protocol": "tcp", "port": 8080}]}},
                   "exposedTo": {"edge": {"ports": [{"protocol": "tcp", "port": 80}]}}},
            "app": {"vlan": 120, "peers": {"ports": [{"protocol": "udp", "port": 7946}]}},
        }
    }  # fmt: skip
    assert set(matrix.rules_of(platform)) == {
        Rule("lb", "app", "tcp", 8080),
        Rule("edge", "lb", "tcp", 80),
        Rule("app", "app", "udp", 7946),
    }
    assert matrix.vlans_of(platform) == {"lb": 110, "app": 120}
