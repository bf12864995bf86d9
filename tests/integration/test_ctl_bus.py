# SPDX-License-Identifier: AGPL-3.0-or-later
"""`odysseyctl bus` and the orders to end a transaction, as processes against a whole odysseyd."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from odyssey.api.bus import Bus
from rdmp.client import Client
from rdmp.endpoints import Endpoint
from rdmp.rpc import RpcError
from rdmp.tls import TlsFiles
from tests.integration.orchestra import INVENTORY, PLATFORM, Orchestra
from tests.integration.rdmp_support import until
from tests.integration.test_ctl_odysseyd import Desk

_PROGRAM = (sys.executable, "-c", "from odyssey.cli import main; main()")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    orchestra = Orchestra(tmp_path)
    orchestra.rdmp |= {"ack_timeout": 0.3, "event_window": 5, "heartbeat": 20.0}
    await orchestra.start()
    await orchestra.join()
    await orchestra.serve("setInventory", "inventory", {"document": INVENTORY})
    yield Desk(orchestra)
    await orchestra.leave()
    await orchestra.stop()


@pytest.fixture
async def shop(desk: Desk) -> Desk:
    answer = await desk.orchestra.serve("addPlatform", "shop", {"document": PLATFORM})
    assert answer["state"] == "done", answer
    return desk


def start_call(desk: Desk, name: str) -> asyncio.Task[Any]:
    """Add a node; its transactions are called name.1 and so on."""
    system = {"platform": "shop", "Network": {"name": "app", "Node": {"count": 1}}}
    return asyncio.create_task(desk.orchestra.serve("addNode", name, system))


async def open_transaction(desk: Desk) -> Any:
    """Wait until a transaction is open and return it as `bus tx` shows it."""
    async with asyncio.timeout(20):
        while not (found := (await desk.json("bus", "tx"))["transactions"]):
            await asyncio.sleep(0.05)
    return found[0]


async def test_who_is_connected_and_what_waits(shop: Desk) -> None:
    peers = (await shop.json("bus", "peers"))["peers"]
    assert {peer["name"] for peer in peers} >= {"h1", "h2", "h3", "controller"}
    assert all(peer["queue"] == 0 for peer in peers)
    status = await shop.json("bus", "status")
    assert status["peers"] == len(peers) and status["eventsDropped"] == 0
    assert status["transactions"]["committed"] > 0
    assert (await shop.json("bus", "tx"))["transactions"] == []
    out, _ = await shop.run("bus", "peers")
    assert out.splitlines()[0].split() == ["PEER", "ROLE", "SINCE", "QUEUE", "ADDRESS"]
    assert "Messages queued" in (await shop.run("bus", "status"))[0]
    assert "every transaction is finished" in (await shop.run("bus", "tx"))[1]


async def test_a_trace_has_each_hop_with_its_time(shop: Desk) -> None:
    answer = await start_call(shop, "add")
    (tx, *_) = [item["id"] for item in answer["transactions"]]
    traced = await shop.json("bus", "trace", tx)
    steps = [(hop["event"], hop.get("stage"), hop.get("participant")) for hop in traced["hops"]]
    assert steps[0] == ("created", None, None) and steps[-1] == ("finished", None, None)
    record = await shop.json("tx", "show", tx)
    for name, operation in record["participants"].items():
        assert ("vote", None, name) in steps
        for stage in operation["stages"]:
            assert steps.index(("decided", None, None)) < steps.index(("done", stage, name))
            assert steps.index(("done", stage, name)) < steps.index(("stage", stage, None))
    sums = [round(sum(hop["took"] for hop in traced["hops"][: place + 1]), 6) for place in range(len(traced["hops"]))]
    assert sums == [hop["since"] for hop in traced["hops"]]
    await shop.orchestra.stop()
    await shop.orchestra.start()
    assert (await shop.json("bus", "trace", tx))["hops"] == traced["hops"]
    out, _ = await shop.run("bus", "trace", tx)
    assert out.splitlines()[0].split() == ["AT", "TOOK", "STEP", "STAGE", "PARTICIPANT", "REASON"]
    await shop.run("bus", "trace", "nothing", code=3)


async def test_a_transaction_is_aborted_before_its_decision_and_not_after(shop: Desk) -> None:
    controller = shop.orchestra.members["controller"]
    controller.gates["prepare"] = asyncio.Event()
    adding = start_call(shop, "late")
    tx = (await open_transaction(shop))["id"]
    _, err = await shop.run("tx", "resolve", tx, "--heuristic", "commit", "--reason", "impatience", code=3)
    assert f"odysseyctl tx abort {tx}" in err
    out, _ = await shop.run("tx", "abort", tx, "--reason", "wrong network")
    assert f"{tx} is aborted: aborted by operator/local:root: wrong network" in out
    controller.gates.pop("prepare").set()
    answer = await adding
    assert answer["state"] == "failed" and "wrong network" in answer["error"]["message"]
    done = (await shop.json("tx", "ls", "--state", "committed"))["transactions"][0]["id"]
    _, err = await shop.run("tx", "abort", done, code=3)
    assert "a decision is final" in err
    await shop.run("tx", "abort", "nothing", code=3)


async def test_a_participant_that_never_answers_is_given_up_and_told_when_it_is_back(shop: Desk) -> None:
    controller = shop.orchestra.members["controller"]
    controller.gates["admit"] = asyncio.Event()
    adding = start_call(shop, "stuck")
    tx = (await open_transaction(shop))["id"]
    await asyncio.wait_for(controller.reached.wait(), 20)
    await shop.orchestra.leave("controller")
    assert (await open_transaction(shop))["absent"] == ["controller"]
    assert (await adding)["state"] == "pending"
    because = ["--reason", "the machine is gone"]
    _, err = await shop.run("tx", "resolve", tx, "--heuristic", "abort", *because, code=3)
    assert "a decision is final" in err
    _, err = await shop.run("tx", "resolve", tx, "--heuristic", "commit", "--participant", "h9", *because, code=3)
    assert "h9" in err
    out, _ = await shop.run("tx", "resolve", tx, "--heuristic", "commit", *because)
    assert "controller: given up by operator/local:root: the machine is gone" in out
    record = await shop.json("tx", "show", tx)
    assert (record["state"], record["finished"]) == ("committed", True)
    assert list(record["degraded"]) == ["controller"]
    lines = (await shop.run("events", "--from", "1", "--topic", "tx.heuristic", "-o", "json"))[0].splitlines()
    (event,) = [json.loads(line) for line in lines]
    assert event["data"] == {
        "tx": tx, "decision": "committed", "operator": "operator/local:root", "reason": "the machine is gone",
        "participants": ["controller"],
    }  # fmt: skip
    _, err = await shop.run("tx", "resolve", tx, "--heuristic", "commit", *because, code=3)
    assert "is finished" in err
    controller.gates.clear()
    await shop.orchestra.join("controller")
    await until(lambda: (tx, "commit", "admit") in controller.seen)


async def test_who_was_given_up_stays_so_when_odysseyd_dies_in_between(
    shop: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = shop.orchestra.members["controller"]
    controller.gates["admit"] = asyncio.Event()
    adding = start_call(shop, "stuck")
    tx = (await open_transaction(shop))["id"]
    await asyncio.wait_for(controller.reached.wait(), 20)
    await shop.orchestra.leave("controller")
    assert (await adding)["state"] == "pending"
    with monkeypatch.context() as dying:
        dying.setattr(Bus, "carry_out", lambda *_: None)  # the record is written, and then it is over
        dying.setattr("odyssey.api.bus._SETTLE_SECONDS", 0.1)
        out, _ = await shop.run("tx", "resolve", tx, "--heuristic", "commit", "--reason", "gone")
        assert "waits for" in out and "controller" in out
        await shop.orchestra.stop()
    await shop.orchestra.start()
    async with asyncio.timeout(20):
        while not (record := await shop.json("tx", "show", tx))["finished"]:
            await asyncio.sleep(0.1)
    assert record["degraded"] == {"controller": "given up by operator/local:root: gone"}
    controller.gates.clear()
    await shop.orchestra.join("controller")


async def test_publish_and_subscribe_at_the_shell(desk: Desk) -> None:
    process = await desk.start("bus", "subscribe", "scaling.*", "-o", "json")
    assert desk.orchestra.hub is not None and process.stdout is not None
    hub = desk.orchestra.hub
    await until(lambda: hub.statistics()["subscriptions"] == 1)
    index = int((await desk.run("bus", "publish", "scaling.load", '{"percent": 90}'))[0])
    await desk.run("bus", "publish", "other.thing")
    event = json.loads(await process.stdout.readline())
    assert (event["index"], event["topic"], event["data"]) == (index, "scaling.load", {"percent": 90})
    process.terminate()
    await process.wait()
    assert (await desk.json("bus", "publish", "scaling.load", "{}"))["index"] > index
    for wrong in ("{", "[1]", '"x"'):
        await desk.run("bus", "publish", "scaling.load", wrong, code=2)
    _, err = await desk.run("bus", "publish", "tx.decided", "{}", code=3)
    assert "may not publish" in err


async def test_a_reader_that_does_not_read_is_told_and_cut_and_goes_on_from_there(desk: Desk) -> None:
    assert desk.orchestra.hub is not None
    hub = desk.orchestra.hub
    process = await desk.start("bus", "subscribe", "scaling.*", "-o", "json")
    await until(lambda: hub.statistics()["subscriptions"] == 1)
    count = 400
    first = await hub.publish("scaling.load", {"n": 0, "text": "x" * 4000})
    for number in range(1, count):
        await hub.publish("scaling.load", {"n": number, "text": "x" * 4000})
    await until(lambda: hub.statistics()["subscriptions"] == 0)
    out, err = await process.communicate()
    assert process.returncode == 4, err.decode()
    got = [json.loads(line)["index"] for line in out.splitlines()]
    assert got == list(range(first, first + len(got))) and len(got) < count
    assert "read too slowly" in err.decode() and f"Go on with --from {got[-1] + 1}" in err.decode()
    rest = (await desk.run("events", "--from", str(got[-1] + 1), "--topic", "scaling.*", "-o", "json"))[0]
    assert len(rest.splitlines()) == count - len(got)


async def test_a_publisher_certificate_allows_scaling_events_and_nothing_else(desk: Desk) -> None:
    folder = desk.orchestra.folder / "meter"
    desk.orchestra.authority.issue("publisher", "meter", folder)
    files = TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    async with Client() as client:
        await client.connect(Endpoint("tls", "127.0.0.1", desk.orchestra.port), files)
        assert await client.publish("scaling.load", {"network": "shop/app", "percent": 90}) > 0
        refused = [
            client.publish("node.died", {}), client.publish("scalings.load", {}), client.publish("tx.decided", {}),
            client.subscribe(["scaling.*"]), client.subscribe([">"]),
            *(client.call(method) for method in ("status", "bus.peers", "state.get", "peers.list")),
            client.call("tx.abort", {"id": "x"}), client.call("bus.trace", {"id": "x"}),
        ]  # fmt: skip
        for work in refused:
            with pytest.raises(RpcError) as caught:
                await work
            assert caught.value.code == "forbidden", caught.value
    outside = ["--server", f"127.0.0.1:{desk.orchestra.port}", "--pki", str(folder)]
    process = await asyncio.create_subprocess_exec(
        *_PROGRAM, *outside, "bus", "publish", "scaling.load", '{"percent": 10}',
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0 and int(out) > 0
    process = await asyncio.create_subprocess_exec(
        *_PROGRAM, *outside, "bus", "publish", "node.died", stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 3 and b"may not publish node.died" in err


async def test_a_durable_call_that_nobody_answers_is_a_dead_letter(desk: Desk) -> None:
    answer = json.loads((await desk.run("bus", "call", "controller", "echo", '{"n": 1}'))[0])
    assert answer == {"by": "controller", "n": 1}
    _, err = await desk.run("bus", "call", "agent", "nothing", "--durable", code=3)
    assert "nothing" in err and "dead letter" not in err  # a member answered
    await desk.orchestra.leave("controller")
    call = ["bus", "call", "controller", "echo", '{"n": 2}', "--timeout", "1"]
    _, err = await desk.run(*call, code=3)
    assert "no member of the group controller answered echo" in err
    assert (await desk.json("bus", "deadletter", "ls"))["letters"] == []
    _, err = await desk.run(*call, "--durable", code=3)
    await desk.orchestra.stop()
    await desk.orchestra.start()
    (letter,) = (await desk.json("bus", "deadletter", "ls"))["letters"]
    assert f"kept as dead letter {letter['id']}" in err
    assert (letter["tries"], letter["caller"]) == (1, "operator/local:root")
    assert (await desk.json("bus", "status"))["deadletters"] == 1
    await desk.run("bus", "deadletter", "retry", letter["id"], code=3)
    assert (await desk.json("bus", "deadletter", "ls"))["letters"][0]["tries"] == 2
    assert letter["id"] in (await desk.run("bus", "deadletter", "ls"))[0]
    await desk.orchestra.join("controller")
    out, _ = await desk.run("bus", "deadletter", "retry", letter["id"])
    assert out == f"{letter['id']} was answered: by=controller n=2\n"
    await desk.orchestra.leave("controller")
    await desk.run(*call, "--durable", code=3)
    (letter,) = (await desk.json("bus", "deadletter", "ls"))["letters"]
    assert (await desk.json("bus", "deadletter", "drop", letter["id"]))["id"] == letter["id"]
    await desk.run("bus", "deadletter", "drop", letter["id"], code=3)
    assert "there is no dead letter" in (await desk.run("bus", "deadletter", "ls"))[1]
    await desk.orchestra.join("controller")
