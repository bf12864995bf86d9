# SPDX-License-Identifier: AGPL-3.0-or-later
"""Round trips of calls: RDMP with TLS, stock jsocket without, NATS request and reply through its server without."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tests.bench.rdmp import servers
from tests.bench.rdmp.fleet import Fleet, Pki
from tests.bench.rdmp.support import BenchError, Child, Json, Sizes, children, load, processor_seconds, say

CLIENTS = (1, 100)
Settings = tuple[dict[str, Any], list[int]]  # of the callers, and the processes whose processor time is the callee's


@contextmanager
def _rdmp(folder: Path, pki: Pki) -> Iterator[Settings]:
    with children() as started:
        # All callers have one certificate, and one of them alone may call more often than an operator should.
        many = {"connections_per_certificate": 1000, "messages_per_second": 1_000_000}
        fleet = Fleet(folder / "rpc", pki, started, {"max_connections": 1000, "handshake_timeout": 30.0, **many})
        hub, ready = fleet.orchestrate()
        yield {"kind": "rdmp", "port": ready["port"], "tls": pki.one("operator", "caller")}, [hub.pid]


@contextmanager
def _jsocket(folder: Path, pki: Pki) -> Iterator[Settings]:
    with children(stop=3.0) as started:
        port = servers.free_port()
        child = Child("callee", {"kind": "jsocket", "port": port})
        started.append(child)
        child.answer()
        yield {"kind": "jsocket", "port": port}, [child.pid]


@contextmanager
def _nats(folder: Path, pki: Pki) -> Iterator[Settings]:
    with servers.nats(folder / "rpc-nats") as (process, port), children() as started:
        child = Child("callee", {"kind": "nats", "port": port})
        started.append(child)
        child.answer()
        yield {"kind": "nats", "port": port}, [child.pid, process.pid]


KINDS: tuple[tuple[str, Callable[[Path, Pki], AbstractContextManager[Settings]]], ...] = (
    ("RDMP call, mutual TLS 1.3", _rdmp),
    ("jsocket 2.0.3 as it is, no TLS", _jsocket),
    ("NATS 2.9 request and reply, no TLS", _nats),
)


def measure(folder: Path, pki: Pki, sizes: Sizes) -> list[Json]:
    """One entry for each kind, with one and with a hundred clients."""
    answers = []
    for name, serve in KINDS:
        answer: Json = {"name": name}
        try:
            with serve(folder, pki) as (settings, pids), contextlib.ExitStack() as stack:
                callers = stack.enter_context(children())
                callers.append(Child("callers", settings))
                callers[0].answer()
                answer["clients"] = {str(count): _one(callers[0], pids, count, sizes) for count in CLIENTS}
            say(f"  {name}: " + "; ".join(f"{k}: {v['per_second']:.0f}/s" for k, v in answer["clients"].items()))
        except (BenchError, OSError) as error:
            answer["error"] = str(error)
            say(f"  {name}: could not be measured: {error}")
        answers.append(answer)
    return answers


def _one(callers: Child, pids: list[int], count: int, sizes: Sizes) -> Json:
    seconds = sizes.seconds / 2
    before = processor_seconds(pids)
    told = callers.ask("call", clients=count, seconds=seconds)
    used = processor_seconds(pids) - before
    calls = max(1.0, told["per_second"] * seconds)
    return {**told, "cpu_us_callee": round(used / calls * 1e6), "load": load()}
