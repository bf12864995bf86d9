# SPDX-License-Identifier: AGPL-3.0-or-later
"""Metrics: names, labels and values, and who may read them over which address."""

from __future__ import annotations

import asyncio
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controller.channel import CountedEntry
from controller.compiler import Compilation
from controller.counters import Tally, counters_json
from controller.metrics import FabricCollector, Snapshot
from controller.metrics_server import MetricsError, MetricsServer
from controller.ports import PortCounters, PortState
from controller.report import Counters, fabric_report
from odyssey.security.ca import CertificateAuthority
from rdmp.tls import TlsFiles
from tests.unit.controller import samples


def snapshot() -> Snapshot:
    compilation: Compilation = samples.compiled(samples.shop())
    tally = Tally()
    entries = [CountedEntry(entry, 2, 200, 1.0) for entry in compilation.tables["sw1"]]
    tally.add("sw1", entries, compilation)
    seen = {"sw1": {"connected": True, "entries": 91, "capacity": 100000, "drift": 0, "foreign": 3}}
    ports = {"sw1": {1: PortState(1, "eth1", True, 10**7, 1), 2: PortState(2, "eth2", False, 10**7, 2)}}
    counted = PortCounters(1, 5, 6, 500, 600, 0, 0, 0, 0, 1.0)
    counters: dict[str, tuple[Counters, Counters]] = {"sw1": ({}, {1: counted})}
    return Snapshot(counters_json(tally, compilation), fabric_report(compilation, seen, ports, {}, counters))


def test_every_metric_has_its_name_its_labels_and_its_value() -> None:
    registry = CollectorRegistry()
    registry.register(FabricCollector(snapshot))
    text = generate_latest(registry).decode()
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    node = (("network", "lb"), ("node", "shop-lb-1"), ("platform", "shop"))
    assert found["odyssey_node_sent_bytes_total", node] == 200
    assert found["odyssey_node_sent_packets_total", node] == 2
    dependency = (("platform", "shop"), ("source", "shop/lb"), ("target", "shop/app"))
    assert found["odyssey_dependency_opened_bytes_total", dependency] == 200
    exposed = (("platform", "shop"), ("source", "border/edge"), ("target", "shop/lb"))
    assert found["odyssey_dependency_returned_packets_total", exposed] == 2
    assert found["odyssey_network_denied_packets_total", (("network", "app"), ("platform", "shop"))] == 2
    port = (("attached", "host h1 eth0"), ("port", "1"), ("switch", "sw1"))
    assert found["odyssey_port_spoofed_packets_total", port] == 2
    assert found["odyssey_port_up", port] == 1
    assert found["odyssey_port_receive_bytes_total", port] == 500
    assert found["odyssey_switch_fragments_dropped_packets_total", (("switch", "sw1"),)] == 4, "of both families"
    assert found["odyssey_switch_entries", (("switch", "sw1"),)] == 91
    assert found["odyssey_switch_connected", (("switch", "sw2"),)] == 0
    assert not [name for name, labels in found if name == "odyssey_port_up" and ("switch", "sw2") in labels]


# The server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority.create(tmp_path_factory.mktemp("ca"), "lab")


def files(authority: CertificateAuthority, role: str, name: str, folder: Path) -> TlsFiles:
    authority.issue(role, name, folder)
    return TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")


@pytest.fixture
async def server(authority: CertificateAuthority, tmp_path: Path) -> AsyncIterator[MetricsServer]:
    context = files(authority, "controller", "controller", tmp_path / "controller").server_context()

    async def ask() -> Snapshot:
        return snapshot()

    made = MetricsServer(ask, "lab", context)
    yield made
    await made.stop()


async def get(url: str, context: ssl.SSLContext | None = None) -> str:
    def read() -> str:
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(read)


async def test_the_loopback_is_served_in_plain(server: MetricsServer) -> None:
    port = server.start("127.0.0.1", 0)
    assert "odyssey_node_sent_bytes_total" in await get(f"http://127.0.0.1:{port}/metrics")


async def test_other_addresses_want_a_certificate_of_somebody_who_may_read(
    server: MetricsServer, authority: CertificateAuthority, tmp_path: Path
) -> None:
    port = server.start("0.0.0.0", 0)
    url = f"https://127.0.0.1:{port}/metrics"
    reader = files(authority, "publisher", "prometheus", tmp_path / "reader").client_context()
    assert "odyssey_switch_connected" in await get(url, reader)
    with pytest.raises((urllib.error.URLError, OSError)):
        await get(f"http://127.0.0.1:{port}/metrics")
    agent = files(authority, "agent", "h1", tmp_path / "agent").client_context()
    with pytest.raises((urllib.error.URLError, OSError)):
        await get(url, agent)
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    with pytest.raises((urllib.error.URLError, OSError)):
        await get(url, nobody)


async def test_a_silent_client_keeps_nobody_waiting(
    server: MetricsServer, authority: CertificateAuthority, tmp_path: Path
) -> None:
    port = server.start("0.0.0.0", 0)
    reader = files(authority, "operator", "alice", tmp_path / "alice").client_context()
    _, silent = await asyncio.open_connection("127.0.0.1", port)
    try:
        assert "odyssey_port_up" in await get(f"https://127.0.0.1:{port}/metrics", reader)
    finally:
        silent.close()


async def test_what_cannot_be_asked_is_an_error_of_the_request_alone(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    context = files(authority, "controller", "controller", tmp_path / "controller").server_context()
    answers: Iterator[OSError | Snapshot] = iter([OSError("the switch is gone"), snapshot()])

    async def ask() -> Snapshot:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    server = MetricsServer(ask, "lab", context)
    port = server.start("127.0.0.1", 0)
    try:
        with pytest.raises(urllib.error.HTTPError, match="500"):
            await get(f"http://127.0.0.1:{port}/metrics")
        assert "odyssey_port_up" in await get(f"http://127.0.0.1:{port}/metrics")
    finally:
        await server.stop()


async def test_a_name_is_no_address_to_listen_on(server: MetricsServer) -> None:
    with pytest.raises(MetricsError, match="must be an IP address"):
        server.start("localhost", 0)
