# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the controller knows as Prometheus metrics: from answers to metric families.  Pure but for ``FabricCollector``.

Names follow https://prometheus.io/docs/practices/naming/: base units, ``_total`` for what only rises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The answers of ``views.counters`` and ``views.fabric`` of one moment."""

    counters: Json
    fabric: Json


@dataclass(frozen=True, slots=True)
class _Kind:
    """Packets and bytes of one kind of row: ``key`` is how the answer calls it."""

    metric: str
    key: str
    text: str


_NODE = (
    _Kind("sent", "sent", "that a node sent and the fabric let in"),
    _Kind("received", "received", "delivered to a node"),
    _Kind("drained", "drained", "that would have opened a connection to a draining node"),
)
_DEPENDENCY = (
    _Kind("opened", "opened", "from the clients of a dependency to its ports"),
    _Kind("returned", "returned", "from the ports of a dependency back to its clients"),
    _Kind("reported", "reported", "of ICMP errors between the two sides of a dependency"),
    _Kind("turned", "turned", "that would have opened a connection from a service port"),
)
_NETWORK = (_Kind("denied", "denied", "of a network that no policy lets out"),)
_BORDER = (
    _Kind("sent", "sent", "that came in at a border"),
    _Kind("received", "received", "delivered to a border"),
    _Kind("denied", "denied", "from a border that no policy lets in"),
)
_SPOOFED = (_Kind("spoofed", "spoofed", "that nobody on a port may send"),)
_FRAGMENTS = (_Kind("fragments_dropped", "fragment", "of fragments, which are dropped"),)
_PORT = (
    ("receive_bytes", "rxBytes", "Bytes that a port received."),
    ("transmit_bytes", "txBytes", "Bytes that a port sent."),
    ("receive_packets", "rxPackets", "Packets that a port received."),
    ("transmit_packets", "txPackets", "Packets that a port sent."),
    ("receive_dropped_packets", "rxDropped", "Packets that a port received and dropped."),
    ("transmit_dropped_packets", "txDropped", "Packets that a port dropped instead of sending them."),
)
_SWITCH = (
    ("connected", "connected", "Whether the switch is connected to this controller."),
    ("entries", "entries", "Flow entries of ours that the switch holds."),
    ("entries_max", "capacity", "Flow entries that the switch may hold."),
    ("drift_entries", "drift", "Entries that differed from what was decided when the switch was last looked at."),
    ("foreign_entries", "foreign", "Entries and groups of others."),
)


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield every metric of a moment."""
    counters = snapshot.counters
    nodes = [((node, one["network"], one["platform"]), one) for node, one in counters["nodes"].items()]
    yield from _amounts("node", ("node", "network", "platform"), _NODE, nodes)
    dependencies = [
        ((key.split("/")[1], one["from"], one["to"]), one) for key, one in counters["dependencies"].items()
    ]
    yield from _amounts("dependency", ("platform", "source", "target"), _DEPENDENCY, dependencies)
    networks = [((one["network"], one["platform"]), one) for one in counters["networks"].values()]
    yield from _amounts("network", ("network", "platform"), _NETWORK, networks)
    yield from _amounts("border", ("border",), _BORDER, [((name,), one) for name, one in counters["borders"].items()])
    ports = [((one["switch"], str(one["port"]), _attached(one)), one) for one in counters["ports"]]
    yield from _amounts("port", ("switch", "port", "attached"), _SPOOFED, ports)
    switches = [((name,), one) for name, one in counters["switches"].items()]
    yield from _amounts("switch", ("switch",), _FRAGMENTS, switches)
    yield from _switches(snapshot.fabric)


def _amounts(
    subject: str, labels: Sequence[str], kinds: Sequence[_Kind], rows: Iterable[tuple[Sequence[str], Json]]
) -> Iterator[Metric]:
    listed = list(rows)
    for kind in kinds:
        for unit in ("packets", "bytes"):
            name = f"odyssey_{subject}_{kind.metric}_{unit}"
            family = CounterMetricFamily(name, f"{unit.capitalize()} {kind.text}.", labels=labels)
            for values, row in listed:
                family.add_metric(values, row[f"{kind.key}{unit.capitalize()}"])
            yield family


def _switches(fabric: Json) -> Iterator[Metric]:
    for metric, key, text in _SWITCH:
        gauge = GaugeMetricFamily(f"odyssey_switch_{metric}", text, labels=("switch",))
        for name, switch in fabric["switches"].items():
            gauge.add_metric((name,), float(switch.get(key) or 0))
        yield gauge
    labels = ("switch", "port", "attached")
    ports = [
        ((name, str(port["port"]), _attached(port)), port)
        for name, switch in fabric["switches"].items()
        for port in switch["ports"]
    ]
    up = GaugeMetricFamily("odyssey_port_up", "Whether a port has a carrier and is not shut down.", labels=labels)
    for values, port in ports:
        if port["up"] is not None:
            up.add_metric(values, float(port["up"]))
    yield up
    for metric, key, text in _PORT:
        counter = CounterMetricFamily(f"odyssey_port_{metric}", text, labels=labels)
        for values, port in ports:
            if key in port:
                counter.add_metric(values, port[key])
        yield counter


def _attached(port: Json) -> str:
    what = port["attached"]
    return " ".join(word for word in (what["kind"], what["name"], what["at"]) if word)


class FabricCollector(Collector):
    """Gives prometheus_client the metrics of the moment at which it asks; ``snapshot`` may take a while, and raise."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        return families(self._snapshot())
