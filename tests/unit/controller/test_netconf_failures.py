# SPDX-License-Identifier: AGPL-3.0-or-later
"""What becomes of the other switches, and of a decided change, when one switch fails, is slow or leaves."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from controller.netconf.backups import Backups
from controller.netconf.changes import CommitError
from controller.netconf.device import DeviceConfig, Management
from controller.netconf.devices import Device, Reconnect
from controller.netconf.driver import Tuning
from controller.netconf.participant import NetconfParticipant
from controller.netconf.session import NetconfError, Session, SessionLostError
from controller.netconf.ssh import SshSession, Waits
from rdmp.participant import Json, Refused, Transaction
from tests.netconf import samples

NOBODY = 65534
ED25519 = "AAAAC3NzaC1lZDI1NTE5AAAAIO3qJkc5kdW0lKqXj9pUYgWwS1dV6RqUqUPgM9b0a0aa"
Dial = Callable[[str], None]


class Silent(Session):
    """A session that is there, and asked for nothing."""

    capabilities = frozenset()
    connected = True

    def close(self) -> None:
        self.connected = False

    def get_config(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("asked")

    edit_config = lock = unlock = commit = cancel_commit = discard_changes = copy_config = get_config


class Site:
    """A participant whose switches are reached by ``dial``, which gets the address and must raise."""

    def __init__(self, folder: Path, dial: Dial) -> None:
        self.events: list[tuple[str, Json]] = []
        self.dialled: list[str] = []
        self._dial = dial
        self.participant = NetconfParticipant(
            lambda topic, data: self.events.append((topic, data)),
            self._connect, Backups(folder, 3), reconnect=Reconnect(1),
        )  # fmt: skip

    def _connect(self, management: Management) -> Session:
        self.dialled.append(management.address)
        self._dial(management.address)
        raise SessionLostError("away", "connect")


def wish(address: str) -> dict[str, Any]:
    return samples.nexus(management={**samples.ACCESS, "address": address})


def transaction(seq: int, *switches: str) -> Transaction:
    changes = {f"device/{switch}": wish(switch) for switch in switches}
    return Transaction(f"t{seq}", seq, 1, {"prepare": None, "stages": {"admit": {"changes": changes}}}, 30.0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def bad(address: str) -> None:
    if address == "sw1":
        raise RuntimeError("nobody thought of this")


# One switch, and the others


async def test_an_unexpected_failure_of_one_switch_is_told_and_the_others_are_verified(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path, bad)
    await site.participant.restore({f"device/{name}": wish(name) for name in ("sw1", "sw2", "sw3")}, [])
    keeping = asyncio.create_task(site.participant.keeper.keep(0.01, 0.01, mend=True))
    await until(lambda: keeping.done() or site.dialled.count("sw3") > 1)
    assert not keeping.done()
    await ended(keeping)
    told = {data["switch"]: data["reason"] for topic, data in site.events if topic == "netconf.failed"}
    assert told.keys() == {"sw1", "sw2", "sw3"} and len(site.events) == 3
    assert "RuntimeError: nobody thought of this" in told["sw1"] and "log" in told["sw1"]
    (record,) = [record for record in caplog.records if record.exc_info]  # its traceback, once
    assert record.getMessage().startswith("sw1: ")
    await site.participant.close()


async def test_a_decided_change_that_fails_unexpectedly_is_told_and_can_be_given_up(tmp_path: Path) -> None:
    site = Site(tmp_path, bad)
    stuck = transaction(1, "sw1")
    await site.participant.restore({}, [stuck])
    with pytest.raises(CommitError, match=r"sw1: .*nobody thought of this"):
        await site.participant.commit(stuck, "admit")
    assert ("netconf.unfinished", "t1") in [(topic, data.get("tx")) for topic, data in site.events]
    with pytest.raises(Refused, match=r"sw1: .*nobody thought of this"):  # and not because it is held by t1
        await site.participant.prepare(transaction(2, "sw1"))
    await site.participant.close()


async def test_a_commit_that_fails_outside_of_the_switches_is_unfinished_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, bad)
    stuck = transaction(1, "sw1")
    await site.participant.restore({}, [stuck])

    async def broken(*args: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(site.participant, "_carry_out", broken)
    with pytest.raises(OSError, match="the disk is full"):
        await site.participant.commit(stuck, "admit")
    assert site.events == [("netconf.unfinished", {"tx": "t1", "reason": "OSError: the disk is full"})]
    await site.participant.close()


async def test_after_an_unexpected_failure_the_session_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    sessions: list[Silent] = []

    def connect(_management: Management) -> Session:
        sessions.append(Silent())
        return sessions[-1]

    device = Device("sw1", connect, Tuning(), Reconnect(1))
    config = DeviceConfig.parse(wish("sw1"))

    def work(_driver: object) -> None:
        raise KeyError("vlan")

    for _ in range(2):
        with pytest.raises(NetconfError, match="does not expect, KeyError: 'vlan'"):
            await device.run(config, work)
        assert not sessions[-1].connected and device.reachable is True and "KeyError" in str(device.problem)
    assert len(sessions) == 2 and len([record for record in caplog.records if record.exc_info]) == 1
    assert await device.run(config, lambda driver: 1) == 1 and device.problem is None
    await device.close()


async def test_a_release_that_fails_unexpectedly_closes_the_session() -> None:
    session = Silent()
    device = Device("sw1", lambda _management: session, Tuning(), Reconnect(1))
    await device.run(DeviceConfig.parse(wish("sw1")), lambda driver: driver._locks.append("running"))
    await device.release()
    assert not session.connected
    await device.close()


async def test_a_vote_is_held_again_while_a_switch_that_is_away_is_verified(tmp_path: Path) -> None:
    back = threading.Event()

    def dial(address: str) -> None:
        if address == "sw1":
            back.wait(10)

    site = Site(tmp_path, dial)
    await site.participant.restore({"device/sw1": wish("sw1"), "before/t1": {"sw2": []}}, [transaction(1, "sw2")])
    keeping = asyncio.create_task(site.participant.keeper.keep(0.01, 0.01, mend=True))
    try:
        await until(lambda: "sw1" in site.dialled)
        asked = site.dialled.count("sw2")
        await until(lambda: site.dialled.count("sw2") > asked + 2)
        assert site.dialled.count("sw1") == 1, "one verification at a time"
    finally:
        back.set()
        await ended(keeping)
        await site.participant.close()


@pytest.mark.parametrize("part", ["verify", "_hold"])
async def test_a_defect_ends_keep_and_all_that_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    site = Site(tmp_path, bad)
    await site.participant.restore({}, [transaction(1, "sw2")])

    async def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(site.participant.keeper, part, broken)
    before = asyncio.all_tasks()
    with pytest.raises(RuntimeError, match="a defect"):
        async with asyncio.timeout(5):
            await site.participant.keeper.keep(60.0, 60.0, mend=True)
    assert asyncio.all_tasks() == before
    await site.participant.close()


async def test_keep_that_is_cancelled_leaves_no_task(tmp_path: Path) -> None:
    site = Site(tmp_path, bad)
    before = asyncio.all_tasks()
    keeping = asyncio.create_task(site.participant.keeper.keep(60.0, 60.0, mend=True))
    await asyncio.sleep(0.01)
    await ended(keeping)
    assert asyncio.all_tasks() == before
    await site.participant.close()


async def test_a_switch_that_leaves_is_closed_beside_the_commit_and_before_it_comes_again(tmp_path: Path) -> None:
    steps: list[str] = []
    free = threading.Event()

    class Slow(Silent):
        def close(self) -> None:
            free.wait(10)
            super().close()
            steps.append("closed")

    def connect(_management: Management) -> Session:
        steps.append("dialled")
        if len(steps) > 1:
            raise SessionLostError("away", "connect")
        return Slow()

    participant = NetconfParticipant(lambda *event: None, connect, Backups(tmp_path, 3), reconnect=Reconnect(1))
    await participant.restore({"device/sw1": wish("sw1")}, [])
    await participant.device("sw1").run(DeviceConfig.parse(wish("sw1")), lambda driver: None)
    left = Transaction("t1", 1, 1, {"prepare": None, "stages": {"admit": {"changes": {"device/sw1": None}}}}, 30.0)
    await participant.prepare(left)
    async with asyncio.timeout(5):
        await participant.commit(left, "admit")
    assert steps == ["dialled"]
    again = asyncio.create_task(participant.prepare(transaction(2, "sw1")))
    await asyncio.sleep(0.05)
    free.set()
    with pytest.raises(Refused, match="sw1: away"):
        await again
    assert steps == ["dialled", "closed", "dialled"]
    await participant.close()
    await until(lambda: not any(thread.name.startswith("netconf sw1") for thread in threading.enumerate()))


# Secrets and host keys


@pytest.fixture
def secret() -> Iterator[Path]:
    """A file of another user's, in a folder that everybody may look into."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "secret"
        path.write_text("hidden")
        path.chmod(0o600 if os.geteuid() == 0 else 0o000)
        yield path


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything, so it is nobody for a moment."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("kind", ["keyFile", "passwordFile"])
def test_a_secret_of_another_user_is_named(secret: Path, kind: str) -> None:
    access = {key: value for key, value in samples.ACCESS.items() if key != "keyFile"}
    management = Management.parse({**access, "address": "127.0.0.1", "hostKey": ED25519, kind: str(secret)})
    reason = rf"{secret} cannot be read: Permission denied; it must be a file of the"
    with pytest.raises(NetconfError, match=reason), unprivileged():
        SshSession(management, Waits(0.1))


def test_a_password_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    management = Management("192.0.2.21", 830, "odyssey", ED25519, None, str(path))
    with pytest.raises(NetconfError, match=f"{path} holds no password: it is not UTF-8"):
        SshSession(management, Waits(0.1))


@pytest.mark.parametrize("length", [0, 3, 24, 40, 66])
def test_a_host_key_that_is_cut_off_is_named_before_anything_is_asked(length: int) -> None:
    management = Management("192.0.2.21", 830, "odyssey", ED25519[:length], "/nowhere")
    with pytest.raises(NetconfError, match=r"management\.hostKey is no .*ssh-keyscan -p 830 192\.0\.2\.21"):
        SshSession(management, Waits(0.1))


def test_a_host_key_of_a_type_that_cannot_be_pinned_is_named() -> None:
    dsa = base64.b64encode(b"\x00\x00\x00\x07ssh-dss" + bytes(8)).decode()
    with pytest.raises(NetconfError, match=r"management\.hostKey is no public key of type ed25519, rsa or ecdsa"):
        SshSession(Management("192.0.2.21", 830, "odyssey", dsa, "/nowhere"), Waits(0.1))
