# SPDX-License-Identifier: AGPL-3.0-or-later
"""Steady HTTP requests, each over a fresh connection and each counted: the program that stands for the customers.

It runs as a process of its own inside the border client's network namespace, started as a plain file, so it imports
nothing but the standard library:

    nsenter --net=/run/netns/ody-edge python traffic.py --rate 80 http://172.16.10.2/

A schedule decides when a request is due, not the answer to the one before; so a stall shows as many late or failed
requests and not as a pause. Standard input: a line names the phase from now on. Standard output: JSON lines
`{"kind": "tick"|"failure"|"summary", ...}`. SIGTERM, SIGINT or the end of standard input end it: requests on the way
are still awaited, then comes the summary.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import queue
import signal
import sys
import threading
import time
import urllib.parse
from collections import Counter
from typing import Any

TICK = 0.25  # s between two reports
MAX_FAILURES_TOLD = 200  # failures are all counted; this many are described


class Load:
    """Sends requests at a fixed rate from a pool of threads and counts what becomes of them."""

    def __init__(self, urls: list[str], *, rate: float, workers: int, timeout: float, fields: list[str]) -> None:
        self._targets = itertools.cycle([self._parse(url) for url in urls])
        self._interval = 1.0 / rate
        self._workers = workers
        self._timeout = timeout
        self._fields = fields
        self._due: queue.Queue[tuple[float, str] | None] = queue.Queue(maxsize=workers * 4)
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._sent: Counter[str] = Counter()
        self._ok: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._late = 0
        self._slowest: dict[str, float] = {}
        self._servers: Counter[str] = Counter()
        self.phase = "start"
        self.stop = threading.Event()

    @staticmethod
    def _parse(url: str) -> tuple[str, int, str]:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise SystemExit(f"traffic: {url} is not an http:// address")
        return parts.hostname, parts.port or 80, parts.path or "/"

    def run(self) -> None:
        """Send until `stop` is set, then wait for what is on the way and print the summary."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._workers)]
        for thread in threads:
            thread.start()
        due = tick = time.monotonic()
        while not self.stop.is_set():
            now = time.monotonic()
            if now >= tick:
                self._print({"kind": "tick", **self._counts()})
                tick = now + TICK
            if now < due:
                self.stop.wait(min(due, tick) - now)
                continue
            self._offer(due)
            due += self._interval
        for _ in threads:
            self._due.put(None)
        for thread in threads:
            thread.join(self._timeout * 2)
        self._print({"kind": "summary", **self._counts(), "seconds": time.monotonic() - self._started})

    def _offer(self, due: float) -> None:
        """Hand a request to the workers. When all are busy and the queue is full, wait, and say that it was late."""
        try:
            self._due.put_nowait((due, self.phase))
        except queue.Full:
            with self._lock:
                self._late += 1
            self._due.put((due, self.phase))

    def _work(self) -> None:
        while (item := self._due.get()) is not None:
            with self._lock:
                host, port, path = next(self._targets)
            self._request(item[1], host, port, path)

    def _request(self, phase: str, host: str, port: int, path: str) -> None:
        begun = time.monotonic()
        with self._lock:
            self._sent[phase] += 1
        try:
            server = self._fetch(host, port, path)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._fail(phase, begun, host, error)
            return
        with self._lock:
            self._ok[phase] += 1
            self._servers[server] += 1
            self._slowest[phase] = max(self._slowest.get(phase, 0.0), time.monotonic() - begun)

    def _fetch(self, host: str, port: int, path: str) -> str:
        """One request; returns who served it. A wrong status or a body without the wanted fields is a `ValueError`."""
        connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}: {body[:80].decode('utf-8', 'replace')!r}")
        if not self._fields:
            return host
        document = json.loads(body)
        if not isinstance(document, dict) or not all(document.get(field) for field in self._fields):
            raise ValueError(f"the body lacks {self._fields}: {body[:80].decode('utf-8', 'replace')!r}")
        return str(document[self._fields[0]])

    def _fail(self, phase: str, begun: float, host: str, error: Exception) -> None:
        now = time.monotonic()
        with self._lock:
            self._failed[phase] += 1
            told = sum(self._failed.values()) <= MAX_FAILURES_TOLD
        if told:
            self._print(
                {
                    "kind": "failure",
                    "phase": phase,
                    "at": begun - self._started,
                    "after": now - begun,
                    "time": time.time(),
                    "host": host,
                    "error": f"{type(error).__name__}: {error}",
                }
            )

    def _counts(self) -> dict[str, Any]:
        with self._lock:
            return {
                "sent": sum(self._sent.values()),
                "ok": sum(self._ok.values()),
                "failed": sum(self._failed.values()),
                "late": self._late,
                "phases": {
                    phase: {"sent": sent, "ok": self._ok[phase], "failed": self._failed[phase]}
                    for phase, sent in self._sent.items()
                },
                "slowest": {phase: round(value, 4) for phase, value in self._slowest.items()},
                "servers": dict(self._servers),
            }

    def _print(self, document: dict[str, Any]) -> None:
        line = json.dumps(document) + "\n"
        with self._lock:
            sys.stdout.write(line)
            sys.stdout.flush()


def follow_phases(load: Load) -> None:
    """Take the name of the phase from each line of standard input; its end stops the load."""
    for line in sys.stdin:
        load.phase = line.strip() or load.phase
    load.stop.set()


def main() -> None:
    """Command line: see the text at the top of this file."""
    parser = argparse.ArgumentParser(prog="traffic", description="steady HTTP requests, each counted")
    parser.add_argument("urls", nargs="+", metavar="URL")
    parser.add_argument("--rate", type=float, default=80.0, help="requests each second (default 80)")
    parser.add_argument("--workers", type=int, default=32, help="requests at the same time, at most (default 32)")
    parser.add_argument("--timeout", type=float, default=8.0, help="seconds for connecting and for each read")
    parser.add_argument("--field", action="append", default=[], help="a field that the JSON answer must have")
    options = parser.parse_args()
    load = Load(options.urls, rate=options.rate, workers=options.workers, timeout=options.timeout, fields=options.field)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: load.stop.set())
    threading.Thread(target=follow_phases, args=(load,), daemon=True).start()
    load.run()


if __name__ == "__main__":
    main()
