# SPDX-License-Identifier: AGPL-3.0-or-later
"""The shop's images, built and run on a real engine: three tiers in one network namespace, with few capabilities."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from odyssey.lab import Lab, LabError, Settings
from odyssey.lab.images import IMAGES
from odyssey.lab.shell import run, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID", "KILL", "NET_BIND_SERVICE")
PASSWORD = "it's a \\ secret"
DOCKER = "/usr/bin/docker"

LOAD = """
import collections, http.client, json, sys, threading
answers = collections.Counter()
ended = threading.Event()
def ask():
    while not ended.is_set():
        try:
            connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=5)
            connection.request("GET", "/")
            answers[connection.getresponse().status] += 1
            connection.close()
        except OSError as error:
            answers[str(error)] += 1
        ended.wait(0.005)
threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads: thread.start()
sys.stdin.read()
ended.set()
for thread in threads: thread.join()
print(json.dumps(answers))
"""
"""Asks the balancer until standard input ends, then prints how often each status was the answer."""


class Shop:
    """One balancer, one application and one database that share a sandbox."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.host = f"--host=unix://{lab.docker_socket('h1')}"
        self.directory = directory
        self.directory.joinpath("password").write_text(PASSWORD + "\n")
        self.directory.joinpath("password").chmod(0o600)

    def docker(self, *arguments: str) -> str:
        return run([DOCKER, self.host, *arguments]).strip()

    def up(self) -> None:
        self.neighbours("lb", "app", 8080, ["127.0.0.1"])
        self.neighbours("app", "db", 5432, ["127.0.0.1"])
        self.docker("run", "-d", "--name", "box", "--network=none", "--entrypoint=/bin/sleep", "shop-lb:1", "1000")
        self.start("db", "--volume=db-data:/var/lib/postgresql/data")
        self.start("app")
        self.start("lb")
        wait_until(lambda: self.get(8080, "/healthz")[0] == 200, 30, "the application is healthy", poll=0.1)
        wait_until(lambda: self.get(80, "/healthz")[0] == 200, 30, "the balancer is healthy", poll=0.1)

    def start(self, name: str, *options: str) -> None:
        secret = f"--volume={self.directory}/password:/run/secrets/db-password:ro"
        neighbours = f"--volume={self.directory}/{name}:/run/odyssey:ro"
        confined = ["--cap-drop=ALL", *(f"--cap-add={capability}" for capability in CAPABILITIES)]
        confined += ["--security-opt=no-new-privileges", "--memory=256m", "--network=container:box"]
        self.directory.joinpath(name).mkdir(exist_ok=True)
        mounts = [secret] if name != "lb" else []
        self.docker("run", "-d", "--name", f"shop-{name}", *confined, *mounts, neighbours, *options, f"shop-{name}:1")

    def neighbours(self, name: str, network: str, port: int, addresses: list[str]) -> None:
        nodes = [{"node": f"{network}-{n}", "address": address} for n, address in enumerate(addresses, 1)]
        known = {network: {"ports": [{"protocol": "tcp", "port": port}], "nodes": nodes}}
        folder = self.directory / name
        folder.mkdir(exist_ok=True)
        new = folder / "new.json"
        new.write_text(json.dumps({"node": f"shop-{name}-1", "revision": 1, "dependencies": known}))
        new.rename(folder / "neighbours.json")

    @property
    def pid(self) -> int:
        return int(self.docker("inspect", "-f", "{{.State.Pid}}", "box"))

    def get(self, port: int, path: str = "/") -> tuple[int, Any]:
        """Ask inside the sandbox; status 0 when there was no answer."""
        url = f"http://127.0.0.1:{port}{path}"
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "curl", "-s", "-m", "5", "-w", "\n%{http_code}", url]
        try:
            body, _, status = run(command).rpartition("\n")
        except LabError:
            return 0, None
        return int(status), json.loads(body) if body.startswith("{") else body


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    if os.geteuid() != 0:
        pytest.skip("the lab needs root")
    with tempfile.TemporaryDirectory(prefix="labi-", dir="/tmp") as directory:
        settings = Settings.from_environment({"ODYSSEY_CACHE": os.environ.get("ODYSSEY_CACHE", "/var/cache/odyssey")})
        lab = Lab(replace(settings, directory=Path(directory) / "lab", prefix="labi", hosts=("h1", "h2")))
        try:
            lab.infrastructure_up()
            lab.images()
            made = Shop(lab, Path(directory))
            made.up()
            yield made
        finally:
            lab.down(wipe=True)


def test_a_request_passes_all_three_tiers(shop: Shop) -> None:
    status, first = shop.get(80)
    assert status == 200
    _, second = shop.get(80)
    assert (second["node"], second["database"]) == ("shop-app-1", "127.0.0.1")
    assert second["visits"] == first["visits"] + 1
    assert shop.get(80, "/healthz")[0] == 200
    assert shop.get(8080, "/nothing")[0] == 404


def test_neighbours_change_under_load_without_a_lost_request(shop: Shop) -> None:
    inside = ["nsenter", f"--net=/proc/{shop.pid}/ns/net", sys.executable, "-c", LOAD]
    with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load:
        for last in ([1, 2], [1, 2, 3, 4, 5, 6], [5, 6], [7], [1]):
            shop.neighbours("lb", "app", 8080, [f"127.0.0.{n}" for n in last])
            told = shop.docker("exec", "shop-lb", "/usr/local/bin/on-change")
            assert told.startswith(f"{len(last)} servers")
        answers, _ = load.communicate(timeout=30)
    assert set(json.loads(answers)) == {"200"}


def test_more_neighbours_than_slots_are_an_error(shop: Shop) -> None:
    shop.neighbours("lb", "app", 8080, [f"127.0.1.{n}" for n in range(1, 101)])
    with pytest.raises(LabError, match="100 neighbours, but HAProxy was started with 64 slots"):
        shop.docker("exec", "shop-lb", "/usr/local/bin/on-change")
    shop.neighbours("lb", "app", 8080, ["127.0.0.1"])
    shop.docker("exec", "shop-lb", "/usr/local/bin/on-change")


def test_idle_connections_to_the_database_are_closed(shop: Shop) -> None:
    assert shop.get(80)[0] == 200
    listing = ["nsenter", f"--net=/proc/{shop.pid}/ns/net", "ss", "-Htn", "state", "established"]
    wait_until(lambda: run(listing) == "", 10, "no established connection", poll=0.1)


def test_the_database_keeps_its_data_when_its_container_is_replaced(shop: Shop) -> None:
    visits = shop.get(80)[1]["visits"]
    assert shop.docker("stop", "shop-db") == "shop-db"
    assert shop.docker("inspect", "-f", "{{.State.ExitCode}}", "shop-db") == "0"
    assert shop.get(80)[0] == 503
    shop.docker("rm", "shop-db")
    shop.start("db", "--volume=db-data:/var/lib/postgresql/data")
    wait_until(lambda: shop.get(8080, "/healthz")[0] == 200, 30, "the application is healthy", poll=0.1)
    assert shop.get(80)[1]["visits"] == visits + 1


def test_the_database_comes_back_after_sigkill(shop: Shop) -> None:
    shop.docker("kill", "shop-db")
    shop.docker("start", "shop-db")
    wait_until(lambda: shop.get(80)[0] == 200, 30, "the shop answers", poll=0.1)


def test_processes_run_without_root(shop: Shop) -> None:
    for name, user in (("lb", "101"), ("app", "103"), ("db", "102")):
        lines = shop.docker("top", f"shop-{name}", "-eo", "pid,uid").splitlines()[1:]
        assert {line.split()[1] for line in lines} == {user}


def test_the_password_is_only_in_its_file(shop: Shop) -> None:
    for name in ("app", "db"):
        assert PASSWORD not in shop.docker("inspect", f"shop-{name}")
        assert PASSWORD not in shop.docker("logs", f"shop-{name}")
    wrong = ["psql", "postgresql://shop:wrong@127.0.0.1/shop", "-c", "select 1"]
    with pytest.raises(LabError, match="password authentication failed"):
        shop.docker("exec", "shop-db", *wrong)


def test_application_and_balancer_end_cleanly(shop: Shop) -> None:
    for name in ("app", "lb"):
        shop.docker("stop", "--time=20", f"shop-{name}")
        assert shop.docker("inspect", "-f", "{{.State.ExitCode}}", f"shop-{name}") == "0"
        shop.docker("start", f"shop-{name}")
    wait_until(lambda: shop.get(80)[0] == 200, 30, "the shop answers", poll=0.1)


def test_images_are_loaded_once_into_every_engine(shop: Shop) -> None:
    settings = Settings.from_environment({"ODYSSEY_CACHE": os.environ.get("ODYSSEY_CACHE", "/var/cache/odyssey")})
    lab = Lab(replace(settings, directory=shop.directory / "lab", prefix="labi", hosts=("h1", "h2")))
    told: list[str] = []
    ids = lab.images(progress=told.append)
    assert told == []
    assert set(ids) == set(IMAGES)
    for engine in lab.engines.values():
        assert {reference: engine.api.image_id(reference) for reference in IMAGES} == dict(ids)
