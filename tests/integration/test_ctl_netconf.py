# SPDX-License-Identifier: AGPL-3.0-or-later
"""From odysseyctl to the switch: a whole odysseyd, odyssey-netconf as a process, two real NETCONF servers over SSH."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.netconf.alliedtelesis_model import INTERFACES, VLAN
from controller.netconf.nexus_model import NAMESPACE as NX
from controller.netconf.session import CANDIDATE, RUNNING, NetconfError
from controller.netconf.tree import Element, canonical
from rdmp.tls import TlsFiles
from tests.integration.netconf_process import Daemon
from tests.integration.netconf_support import OURS, NetconfServer, StartServer
from tests.integration.orchestra import HOSTS, INVENTORY, PLATFORM, Orchestra
from tests.integration.test_ctl_odysseyd import SHOP, Desk

pytest_plugins = ["tests.integration.netconf_fixtures"]

PROFILES = {"sw1": "nexus9000", "sw2": "alliedtelesis"}
OWNED = {"vlans": [{"from": 100, "to": 199}, {"from": 4000, "to": 4000}]}
TRANSIT = {4000: "odyssey-transit"}
FOREIGN = {300: "theirs"}
VLANS = {110: "shop-lb", 120: "shop-app", 130: "shop-db", **TRANSIT, **FOREIGN}


def inventory(servers: dict[str, NetconfServer]) -> dict[str, Any]:
    """The lab's inventory, with a Nexus and an Allied Telesis switch that are configured by NETCONF."""
    document: dict[str, Any] = copy.deepcopy(INVENTORY)
    document["fabric"] |= {"owned": OWNED, "controllers": [{"address": "192.0.2.1", "port": 6653}]}
    for name, switch in document["fabric"]["switches"].items():
        form = "eth1/{}" if PROFILES[name] == "nexus9000" else "port1.0.{}"
        switch |= {
            "profile": PROFILES[name], "maxEntries": 2000, "reflects": "yes", "management": servers[name].access,
            "ports": {str(port): {"name": form.format(port)} for port in (1, 2, 3, 101, 201)},
        }  # fmt: skip
    for host in document["hosts"].values():
        for attachment in host["attachments"]:
            attachment["tagged"] = True
    return document


def bridge(number: int, name: str | None) -> str:
    """A VLAN of a Nexus as somebody else edits it; without a name it is deleted."""
    operation = "" if name is not None else ' xmlns:nc="urn:ietf:params:xml:ns:netconf:base:1.0" nc:operation="remove"'
    leaf = "" if name is None else f"<name>{name}</name>"
    return (
        f'<System xmlns="{NX}"><bd-items><bd-items><BD-list{operation}><fabEncap>vlan-{number}</fabEncap>{leaf}'
        "</BD-list></bd-items></bd-items></System>"
    )


def allied_vlan(number: int, name: str) -> str:
    """A VLAN of an Allied Telesis switch as somebody else edits it."""
    return (
        f'<vlans xmlns="{VLAN}"><vlan><vlan-id>{number}</vlan-id><config><vlan-id>{number}</vlan-id>'
        f"<name>{name}</name></config></vlan></vlans>"
    )


class Chain(Desk):
    """An operator's shell, and everything behind it down to the switches."""

    def __init__(self, orchestra: Orchestra, servers: dict[str, NetconfServer]) -> None:
        super().__init__(orchestra)
        self.servers = servers
        folder = orchestra.folder / "members/netconf"
        orchestra.authority.issue("netconf", "netconf", folder)
        files = TlsFiles(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
        self.daemon = Daemon(orchestra.folder / "netconf", files, orchestra.port)
        self.inventory = inventory(servers)

    def write(self, name: str, document: dict[str, Any]) -> str:
        path = self.orchestra.folder / f"{name}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        return str(path)

    async def begin(self, **settings: Any) -> None:
        """Start odyssey-netconf and wait until it is there."""
        await self.daemon.start(**settings)
        await self.until(self.is_there, "odyssey-netconf is connected")

    async def kill(self) -> None:
        await self.daemon.end(signal.SIGKILL)

    async def is_there(self) -> bool:
        assert self.orchestra.hub is not None
        return bool(self.orchestra.hub.connected("netconf"))

    async def ask_daemon(self, method: str, **params: Any) -> Any:
        assert self.orchestra.hub is not None
        return await self.orchestra.hub.call("netconf", method, params, 20.0)

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 60.0) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not await condition():
            assert asyncio.get_running_loop().time() < deadline, f"not in time: {what}\n{self.daemon.log()}"
            await asyncio.sleep(0.05)

    async def running(self, switch: str) -> Element:
        """What a switch holds, read by a session of our own."""
        return await asyncio.to_thread(self._running, self.servers[switch])

    @staticmethod
    def _running(server: NetconfServer) -> Element:
        session = server.session()
        try:
            return session.get_config(RUNNING)
        finally:
            session.close()

    async def vlans(self, switch: str) -> dict[int, str | None]:
        """The VLANs of a switch with their names."""
        data = await self.running(switch)
        if PROFILES[switch] == "nexus9000":
            found = [(item.findtext(f"{{{NX}}}fabEncap"), item) for item in data.iter(f"{{{NX}}}BD-list")]
            return {int(str(key).removeprefix("vlan-")): item.findtext(f"{{{NX}}}name") for key, item in found}
        items = data.iter(f"{{{VLAN}}}vlan")
        return {
            int(str(item.findtext(f"{{{VLAN}}}vlan-id"))): item.findtext(f"{{{VLAN}}}config/{{{VLAN}}}name")
            for item in items
        }

    async def hold(self, vlans: dict[int, str]) -> bool:
        """Tell whether both switches hold these VLANs and no other."""
        return all([await self.vlans(switch) == vlans for switch in self.servers])

    async def seed(self, switch: str, config: str) -> None:
        await asyncio.to_thread(self.servers[switch].seed, config)

    async def free(self) -> None:
        """Nobody holds a lock, and no candidate holds an edit."""

        def one(server: NetconfServer) -> None:
            session = server.session()
            try:
                session.lock(RUNNING)
                if session.can(":candidate"):
                    session.lock(CANDIDATE)
                    assert canonical(session.get_config(RUNNING)) == canonical(session.get_config(CANDIDATE))
            finally:
                session.close()

        for server in self.servers.values():
            await asyncio.to_thread(one, server)

    def parts(self, call: str) -> set[tuple[str, str]]:
        """Which steps of a call's transactions the recording members were asked for, with who it was."""
        return {
            (name, step) for name, member in self.orchestra.members.items()
            for tx, step, _ in member.seen if tx.startswith(f"{call}.")
        }  # fmt: skip

    @contextlib.contextmanager
    def gate(self, member: str, name: str) -> Iterator[asyncio.Event]:
        """Let a member wait until it is let on."""
        event = self.orchestra.members[member].gates[name] = asyncio.Event()
        yield event
        event.set()
        del self.orchestra.members[member].gates[name]


@pytest.fixture
async def chain(start_server: StartServer, tmp_path: Path) -> AsyncIterator[Chain]:
    orchestra = Orchestra(tmp_path)
    # odyssey-netconf needs a second for each switch, and longer on a busy machine.
    orchestra.rdmp |= {"stage_wait": 40.0, "peer_wait": 20.0}
    made = Chain(orchestra, {name: start_server(profile) for name, profile in PROFILES.items()})
    await made.seed("sw1", bridge(300, "theirs"))
    await made.seed("sw2", allied_vlan(300, "theirs"))
    await orchestra.start()
    await orchestra.join()
    try:
        await made.begin()
        await made.run("inventory", "apply", made.write("inventory", made.inventory))
        yield made
    finally:
        with contextlib.suppress(TimeoutError):
            await made.kill()
        await orchestra.leave()
        await orchestra.stop()


async def test_vlans_come_with_a_platform_and_go_with_it_and_foreign_ones_stay(chain: Chain) -> None:
    assert await chain.hold({**TRANSIT, **FOREIGN})
    plan = await chain.json("platform", "plan", SHOP, code=1)
    assert "netconf" in plan["plan"]["steps"][0]["participants"]
    assert plan["netconf"] is True and plan["settings"].keys() == PROFILES.keys()
    out, _ = await chain.run("platform", "plan", SHOP, "--flows", code=1)
    heading = out.index("Switch settings by NETCONF")
    for vlan in ("vlan-120]/name = shop-app", "vlan[120]/config/name = shop-app"):
        assert out.index(vlan) > heading
    await chain.run("platform", "apply", SHOP)
    assert await chain.hold(VLANS)
    ports = (await chain.running("sw2")).iter(f"{{{INTERFACES}}}interface")
    assert any("odyssey host h1 eth1" in canonical(port) for port in ports)

    shown = await chain.json("netconf", "ls")
    assert shown["netconf"] is True
    sw1, sw2 = shown["switches"]
    for switch in (sw1, sw2):
        assert switch["reachable"] and switch["verified"] and switch["drift"] == [] and switch["problem"] is None
        assert switch["transaction"] is None and switch["restored"] is None
    assert sw1["address"] == f"127.0.0.1:{chain.servers['sw1'].port}"
    assert "candidate:1.0" in sw1["capabilities"] and "writable-running:1.0" in sw2["capabilities"]
    out, _ = await chain.run("netconf", "ls")
    assert "confirmed-commit" in out and "s ago" in out

    listed = {name: (await chain.json("netconf", "backups", name))["backups"] for name in PROFILES}
    before = {name: canonical(await chain.running(name)) for name in PROFILES}
    out, _ = await chain.run("platform", "apply", SHOP)
    assert "nothing to change" in out
    await chain.run("inventory", "apply", chain.write("inventory", chain.inventory))
    await chain.run("node", "add", "app")
    assert {name: (await chain.json("netconf", "backups", name))["backups"] for name in PROFILES} == listed
    assert {name: canonical(await chain.running(name)) for name in PROFILES} == before
    for name in PROFILES:
        assert (await chain.run("netconf", "diff", name))[0] == f"{name}: equal to what was decided\n"

    await chain.run("platform", "rm", "shop", "--yes")
    assert await chain.hold({**TRANSIT, **FOREIGN})
    await chain.free()
    transactions = (await chain.json("tx", "ls"))["transactions"]
    assert all(item["finished"] and item["state"] == "committed" for item in transactions)


async def test_what_a_device_refuses_aborts_everywhere_and_is_named_by_its_path(chain: Chain, tmp_path: Path) -> None:
    """A Nexus that keeps a VLAN for itself."""
    server = chain.servers["sw1"]
    models = tmp_path / "reserved"
    shutil.copytree(server.models, models)
    module = models / "Cisco-NX-OS-device.yang"
    entry = 'list BD-list {\n          key "fabEncap";'
    reserved = "must \"fabEncap != 'vlan-120'\" { error-message 'VLAN 120 is reserved for internal use'; }"
    text = module.read_text(encoding="utf-8")
    if entry not in text and server.models != OURS:
        pytest.skip("the vendor's module is laid out in another way")
    assert entry in text
    module.write_text(text.replace(entry, f"{entry}\n{reserved}"), encoding="utf-8")
    server.models = models
    server.kill()
    server.start()
    before = {name: canonical(await chain.running(name)) for name in PROFILES}

    _, err = await chain.run("platform", "apply", SHOP, "--id", "refused", code=4)
    assert "netconf" in err and "sw1" in err and "reserved for internal use" in err
    assert "BD-list" in err and "vlan-120" in err
    (transaction,) = (await chain.json("call", "show", "refused", code=4))["transactions"]
    assert transaction["state"] == "aborted" and transaction["finished"]
    assert chain.parts("refused") == {("controller", "prepare"), ("controller", "abort")}
    assert {name: canonical(await chain.running(name)) for name in PROFILES} == before
    await chain.free()
    await chain.run("platform", "show", "shop", code=3)

    document = copy.deepcopy(PLATFORM)
    document["networks"]["app"]["vlan"] = 125
    await chain.run("platform", "apply", chain.write("other", document))
    assert await chain.hold({110: "shop-lb", 125: "shop-app", 130: "shop-db", **TRANSIT, **FOREIGN})


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "abort"])
async def test_killed_between_vote_and_decision_it_is_all_or_nothing(chain: Chain, commits: bool) -> None:
    call = "killed"
    with chain.gate("controller", "prepare"):
        process = await chain.start("platform", "apply", SHOP, "--id", call)

        async def voted() -> bool:
            status = await chain.ask_daemon("status", tx=f"{call}.1")
            return bool(status["journal"]["phase"] == "prepared")

        await chain.until(voted, "odyssey-netconf has voted")
        held = (await chain.json("netconf", "ls"))["switches"]
        assert [(one["switch"], one["transaction"]) for one in held] == [(name, f"{call}.1") for name in PROFILES]
        await asyncio.to_thread(_locked, chain.servers["sw1"])
        await chain.kill()
        assert await chain.hold({**TRANSIT, **FOREIGN})
        await chain.begin()
        chain.orchestra.members["controller"].refusal = None if commits else "the table is full"
    out, err = await process.communicate()
    if commits:
        assert process.returncode == 0, (out, err)
        assert await chain.hold(VLANS)
        assert ("controller", "commit") in chain.parts(call)
    else:
        assert process.returncode == 4 and b"the table is full" in err
        assert await chain.hold({**TRANSIT, **FOREIGN})
        assert ("controller", "commit") not in chain.parts(call)
        chain.orchestra.members["controller"].refusal = None
    await chain.free()
    for name in PROFILES:
        await chain.run("netconf", "diff", name)
    status = await chain.json("status")
    assert status["transactions"]["open"] == status["transactions"]["inDoubt"] == 0


async def test_what_a_device_refuses_only_when_it_is_carried_out_is_given_up_and_corrected(chain: Chain) -> None:
    """A switch without a candidate cannot try a value before the vote."""
    await chain.orchestra.stop()
    chain.orchestra.rdmp["stage_wait"] = 3.0
    await chain.orchestra.start()
    await chain.until(_all_there(chain), "hosts and controller are back")
    before = {name: canonical(await chain.running(name)) for name in PROFILES}
    wrong = copy.deepcopy(chain.inventory)
    wrong["fabric"]["switches"]["sw2"]["ports"]["3"]["name"] = "Port_3"
    wrong["fabric"]["switches"]["sw1"]["ports"]["3"]["name"] = "eth1/33"
    _, err = await chain.run("inventory", "apply", chain.write("wrong", wrong), "--id", "wrong", code=6)
    assert "netconf did not confirm yet" in err
    sw1, sw2 = (await chain.json("netconf", "ls"))["switches"]
    assert sw2["transaction"] == "wrong.1" and "Port_3" in sw2["problem"] and "sw2" in sw1["problem"]
    transaction = await chain.json("tx", "show", "wrong.1")
    assert transaction["state"] == "committed" and not transaction["finished"]

    async def taken_back() -> bool:
        return {name: canonical(await chain.running(name)) for name in PROFILES} == before

    await chain.until(taken_back, "no switch keeps a change that not all of them took")
    _, err = await chain.run("netconf", "mend", "sw1", "--yes", code=3)
    assert "held by the open transaction wrong.1" in err
    reason = ("--reason", "sw2 has no Port_3")
    await chain.run("tx", "resolve", "wrong.1", "--heuristic", "commit", *reason)
    right = copy.deepcopy(wrong)
    right["fabric"]["switches"]["sw2"]["ports"]["3"]["name"] = "port1.0.33"

    await chain.run("inventory", "apply", chain.write("right", right))

    async def over() -> bool:
        return not (await chain.ask_daemon("observe"))["open"]

    await chain.until(over, "what was given up is carried out where nothing newer is")
    for name, port in (("sw1", "eth1/33"), ("sw2", "port1.0.33")):
        await chain.run("netconf", "diff", name)
        assert port in canonical(await chain.running(name))


def _locked(server: NetconfServer) -> None:
    """The vote of a Nexus is a promise: nobody else gets its lock."""
    session = server.session()
    with pytest.raises(NetconfError, match="locked"):
        session.lock(RUNNING)
    session.close()


async def test_a_call_right_after_a_restart_of_odysseyd_waits_for_odyssey_netconf(chain: Chain) -> None:
    await chain.kill()
    await chain.orchestra.stop()
    await chain.orchestra.start()
    await chain.until(_all_there(chain), "hosts and controller are back")
    applying = asyncio.create_task(chain.run("platform", "apply", SHOP))
    await asyncio.sleep(1.0)
    assert not applying.done(), "it is not refused while odyssey-netconf may still come"
    await chain.begin()
    await applying
    assert await chain.hold(VLANS)


def _all_there(chain: Chain) -> Callable[[], Awaitable[bool]]:
    async def there() -> bool:
        peers = {peer["name"] for peer in (await chain.orchestra.ask("peers.list"))["peers"]}
        return {"controller", *HOSTS} <= peers

    return there


async def test_without_odyssey_netconf_it_is_said_what_is_missing(chain: Chain) -> None:
    await chain.kill()

    async def gone() -> bool:
        return not await chain.is_there()

    await chain.until(gone, "odyssey-netconf is gone")
    out, err = await chain.run("netconf", "ls")
    assert "sw1" in out and "odyssey-netconf is not connected" in err
    _, err = await chain.run("netconf", "diff", "sw1", code=255)
    assert "odyssey-netconf is not connected" in err
    await chain.run("netconf", "restore", "sw1", "x", "--yes", code=3)


async def test_a_foreign_change_is_shown_line_by_line_and_put_right(chain: Chain) -> None:
    await chain.kill()
    await chain.begin(mend_drift=False)
    await chain.run("platform", "apply", SHOP)
    await chain.seed("sw1", bridge(120, "by-hand"))
    await chain.seed("sw1", bridge(150, "extra"))
    await chain.seed("sw1", bridge(130, None))
    await chain.seed("sw1", bridge(301, "also-theirs"))
    out, _ = await chain.run("netconf", "diff", "sw1", code=1)
    where = "/System/bd-items/bd-items/BD-list"
    lines = out.splitlines()
    assert f"~ {where}[vlan-120]/name = by-hand -> shop-app" in lines
    assert f"+ {where}[vlan-130]/name = shop-db" in lines
    assert f"- {where}[vlan-150]" in lines
    assert lines[-1] == "sw1: 3 differences from what was decided" and len(lines) == 4
    found = await chain.json("netconf", "diff", "sw1", code=1)
    wrong = {"op": "~", "path": f"{where}[vlan-120]/name", "has": "by-hand", "shall": "shop-app"}
    assert wrong in found["changes"] and found["equal"] is False
    await chain.run("netconf", "diff", "sw2")
    _, err = await chain.run("netconf", "diff", "sw9", code=255)
    assert "switches that are: sw1, sw2" in err
    (sw1, _) = (await chain.json("netconf", "ls"))["switches"]
    assert len(sw1["drift"]) == 3

    out, err = await chain.run("netconf", "mend", "sw1")
    assert "sw1 is as decided: 3 changes carried out" in out and "[5/5] save" in err
    assert await chain.vlans("sw1") == {**VLANS, 301: "also-theirs"}
    await chain.run("netconf", "diff", "sw1")
    topics = [json.loads(line)["topic"] for line in (await chain.run("events", "-o", "json"))[0].splitlines()]
    assert topics.count("netconf.drift") >= 1 and "netconf.mended" in topics


async def test_a_backup_is_restored_and_kept_until_a_transaction_comes(chain: Chain) -> None:
    await chain.run("platform", "apply", SHOP)
    first, second = (await chain.json("netconf", "backups", "sw1"))["backups"][:2]
    assert first["first"] and not second["first"]
    out, _ = await chain.run("netconf", "backups", "sw1")
    assert first["name"] in out and "never deleted" in out
    preview = await chain.json("netconf", "diff", "sw1", "--backup", second["name"], code=1)
    assert any("vlan-120" in change["path"] for change in preview["changes"])
    _, err = await chain.run("netconf", "restore", "sw1", "../../x", "--yes", code=3)
    assert "there is no backup '../../x'" in err

    await chain.seed("sw1", bridge(301, "also-theirs"))
    out, err = await chain.run("netconf", "restore", "sw1", second["name"], "--yes")
    assert "- /System/bd-items/bd-items/BD-list[vlan-120]" in out.splitlines()
    assert "[1/5] compare" in err and "[5/5] save" in err and "netconf mend sw1" in err
    restored = {**TRANSIT, **FOREIGN, 301: "also-theirs"}
    assert await chain.vlans("sw1") == restored and await chain.vlans("sw2") == VLANS
    await chain.kill()
    await chain.begin()
    verified = (await chain.json("netconf", "ls"))["switches"][0]["verified"]

    async def looked_again() -> bool:
        sw1 = (await chain.orchestra.ask("netconf.list"))["switches"][0]
        assert sw1["restored"] == second["name"]
        return sw1["verified"] not in (None, verified)

    await chain.until(looked_again, "the switch was compared")
    assert await chain.vlans("sw1") == restored, "it is left so"

    document = copy.deepcopy(PLATFORM)
    document["networks"]["news"] = {
        **copy.deepcopy(PLATFORM["networks"]["lb"]), "subnet": "172.16.40.0/24", "vlan": 140, "dependsOn": {},
        "exposedTo": {},
    }  # fmt: skip
    await chain.run("platform", "apply", chain.write("more", document))
    assert await chain.vlans("sw1") == {**VLANS, 140: "shop-news", 301: "also-theirs"}
    assert (await chain.json("netconf", "ls"))["switches"][0]["restored"] is None
