# SPDX-License-Identifier: AGPL-3.0-or-later
"""The platform serves, is closed where it is not declared open, scales under load and outlives its daemons."""

from __future__ import annotations

import json
from pathlib import Path

from odyssey.demo import headless, web
from odyssey.demo.load import Load
from odyssey.demo.scenario import FIELDS, serving_nodes
from odyssey.demo.world import World
from tests.e2e.switches import close_hole, open_hole

CAP_NET_ADMIN, CAP_NET_RAW = 12, 13  # <linux/capability.h>
REQUESTS = 60  # answered before and after each change


async def entrances(world: World) -> list[str]:
    return [f"http://{station.address}/" for station in await world.stations() if station.network == "lb"]


async def test_requests_go_through_all_three_tiers(shop: World) -> None:
    stations = await shop.stations()
    entrance = next(station for station in stations if station.network == "lb")
    answers = [await web.get(shop.edge().namespace, entrance.address) for _ in range(6)]

    assert {answer.status for answer in answers} == {200}
    documents = [json.loads(answer.body) for answer in answers]
    assert {document[FIELDS[0]] for document in documents} == {
        node["node"] for node in await shop.nodes("app", "admitted")
    }
    assert {document[FIELDS[1]] for document in documents} == {node["address"] for node in await shop.nodes("db")}
    assert await serving_nodes(shop, stations) == (4, [])


async def test_the_declared_paths_are_open_and_all_others_are_closed(shop: World) -> None:
    assert any(not station.admitted for station in await shop.stations()), "the shop keeps a standby node"
    result = await shop.check_policy()

    assert result.allowed_failed == ()
    assert result.leaks == ()
    assert result.controls_unseen == ()
    assert result.holds
    assert {"standby", "forged source", "connection from a service port"} <= result.denied.keys()


async def test_the_probes_find_a_hole_that_somebody_makes_in_a_switch(shop: World) -> None:
    """One entry that passes everything from one node on: proof that the probes can fail on the real fabric."""
    stations = {station.name: station for station in await shop.stations()}
    lb = next(station for station in stations.values() if station.network == "lb")
    db = next(station for station in stations.values() if station.network == "db")
    await shop.stop("controller")  # it would mend the switch
    try:
        await open_hole(shop, lb, db)
        result = await shop.check_policy()
    finally:
        await close_hole(shop, lb, db)
        await shop.start("controller")
    assert any(f"{lb.name} -> {db.name}:5432" in leak.text for leak in result.leaks)
    assert {"forged source", "udp to an undeclared port", "ping"} <= {leak.kind for leak in result.leaks}
    assert not result.holds


async def test_no_workload_can_make_frames_of_its_own(shop: World) -> None:
    """What no switch can tell apart, a node with the MAC and address of another on its host, the kernel prevents."""
    forbidden = 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW
    for container in await shop.node_containers():
        status = Path(f"/proc/{container.pid}/status").read_text(encoding="ascii")
        bounding = next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:"))
        assert int(bounding, 16) & forbidden == 0, container.name


async def test_no_request_fails_while_a_network_is_scaled(shop: World) -> None:
    async with Load(shop.edge().namespace, await entrances(shop), rate=60, fields=FIELDS) as load:
        await load.reaches("start", REQUESTS)
        for count in (6, 2):
            await load.phase(f"to {count}")
            await shop.ctl("network", "scale", f"{shop.platform}/app", str(count))
            await load.phase(f"at {count}")
            await load.reaches(f"at {count}", REQUESTS)
            assert len(await shop.nodes("app", "admitted")) == count
        counts = await load.finish()

    assert counts.failures == ()
    assert counts.ok == counts.sent
    assert len(counts.servers) == 6


async def test_an_address_is_free_as_soon_as_its_node_is_gone(shop: World) -> None:
    """A node under load goes with open connections to the database; what is left of them must not hold its MAC."""
    async with Load(shop.edge().namespace, await entrances(shop), rate=60, fields=FIELDS) as load:
        await load.reaches("start", REQUESTS)
        for count in (6, 2, 6, 2):
            await shop.ctl("network", "scale", f"{shop.platform}/app", str(count))
        assert (await load.finish()).failures == ()


async def test_traffic_flows_with_no_daemon_and_a_cable_pulled(shop: World) -> None:
    await shop.ctl("node", "add", f"{shop.platform}/app")  # nobody has sent it a request when the daemons stop
    result = await headless.run(shop, await entrances(shop), FIELDS)

    assert result.counts.failures == ()
    assert result.counts.failed == 0
    assert set(result.counts.phases) == {headless.BEFORE_CABLE, headless.CABLE_OUT, headless.CABLE_IN}
    assert result.pairs_failed == ()
    assert result.changed == ()
    assert len(result.counts.servers) == 3


async def test_a_network_that_is_scaled_to_what_it_is_changes_nothing(shop: World) -> None:
    before = await headless.picture(shop)
    await shop.ctl("network", "scale", f"{shop.platform}/app", "2")
    await shop.ctl("platform", "apply", "examples/shop/platform.json")
    assert before.differences(await headless.picture(shop)) == ()
