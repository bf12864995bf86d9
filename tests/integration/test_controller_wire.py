# SPDX-License-Identifier: AGPL-3.0-or-later
"""What we write as bytes, on a real Open vSwitch: it understands it as we mean it, and answers the same bytes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from controller.changes import FlowChange, GroupChange, MeterChange, difference
from controller.channel import ChannelError, FlowReading, Role
from controller.flows import (
    ETH_ARP,
    ETH_IPV4,
    ETH_IPV6,
    OUR_TAG,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTO_UDP,
    SYN_WITHOUT_ACK,
    VLAN_PRESENT,
    Action,
    Bucket,
    ClearInPort,
    FlowEntry,
    Goto,
    GroupEntry,
    Kind,
    Learn,
    Match,
    Metered,
    MeterEntry,
    Move,
    Multipath,
    Output,
    OutputInPort,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    TableSet,
    ToController,
    ToGroup,
    make_cookie,
    match,
)
from controller.openflow import replies, wire
from controller.openflow.channel import OpenFlowChannel
from controller.openflow.terminator import Terminator
from tests.integration.controller_support import OpenVSwitch, Pki
from tests.unit.controller import samples

GROUP = GroupEntry(
    0x0D000001,
    (Bucket(7, (Output(7),)), Bucket(8, (PushVlan(), SetField("vlan_vid", VLAN_PRESENT | 100), Output(8)))),
)
NUMBER = OUR_TAG << 8 | 5  # of a meter
LEARN = Learn(
    table=21,
    priority=100,
    cookie=make_cookie(Kind.LEARNED, 5, 1),
    idle_timeout=300,
    fin_idle_timeout=10,
    limit=1000,
    terms=(("eth_type", ETH_IPV4), ("ip_proto", PROTO_TCP)),
    fields=("ipv4_src", "ipv4_dst", "tcp_src", "tcp_dst"),
    keeps=("reg2",),
)
UDP6 = (("eth_type", ETH_IPV6), ("ip_proto", PROTO_UDP))
LEARN6 = Learn(22, 9, 3, 60, 0, 0, UDP6, ("ipv6_src", "udp_src"), ("reg4",))
TCP = {"eth_type": ETH_IPV4, "ip_proto": PROTO_TCP}
NEIGHBOUR = {"eth_type": ETH_IPV6, "ip_proto": PROTO_ICMPV6, "icmpv6_code": 0}

#: Every field and action, and how ``ovs-ofctl`` prints it.
CASES: tuple[tuple[Match, tuple[Action, ...], str], ...] = (
    (
        match(
            in_port=3,
            vlan_vid=(0, 0x1FFF),
            eth_src=0x020000000001,
            eth_dst=0x020000000002,
            ipv4_src=(0x0A000000, 0xFF000000),
            ipv4_dst=0x0A010203,
            tcp_dst=80,
            tcp_flags=SYN_WITHOUT_ACK,
            reg0=1,
            reg1=(2, 15),
            reg5=7,
            **TCP,
        ),
        (SetField("reg0", 0x8002), Goto(40)),
        "tcp,reg0=0x1,reg1=0x2/0xf,reg5=0x7,in_port=3,vlan_tci=0x0000/0x1fff,dl_src=02:00:00:00:00:01,"
        "dl_dst=02:00:00:00:00:02,nw_src=10.0.0.0/8,nw_dst=10.1.2.3,tp_dst=80,tcp_flags=+syn-ack "
        "actions=set_field:0x8002->reg0,goto_table:40",
    ),
    (match(eth_type=ETH_IPV4, ip_frag=(2, 2)), (), "ip,nw_frag=later actions=drop"),
    (
        match(
            eth_type=ETH_IPV6,
            ip_proto=PROTO_UDP,
            ipv6_src=(0xFD << 120, ((1 << 64) - 1) << 64),
            ipv6_dst=(0xFD << 120) + 1,
            udp_src=53,
        ),
        (SetField("eth_src", 0x020000000001), ClearInPort(), ToGroup(GROUP.group)),
        "udp6,ipv6_src=fd00::/64,ipv6_dst=fd00::1,tp_src=53 "
        "actions=set_field:02:00:00:00:00:01->eth_src,load:0->NXM_OF_IN_PORT[],group:218103809",
    ),
    (
        match(icmpv6_type=135, nd_target=0xFE80 << 112 | 1, **NEIGHBOUR),
        (SetField("icmpv6_type", 136), Goto(40)),
        "icmp6,icmp_type=135,icmp_code=0,nd_target=fe80::1 actions=set_field:136->icmpv6_type,goto_table:40",
    ),
    (
        match(icmpv6_type=136, **NEIGHBOUR),
        (
            SetField("nd_options_type", 2),
            SetField("nd_reserved", 0xE0000000),
            SetField("nd_tll", 0x020000000009),
            SetField("ipv6_src", 0xFE80 << 112 | 1),
            Move("ipv6_src", "ipv6_dst"),
            OutputInPort(),
        ),
        "icmp6,icmp_type=136,icmp_code=0 actions=set_field:2->nd_options_type,set_field:3758096384->nd_reserved,"
        "set_field:02:00:00:00:00:09->nd_tll,set_field:fe80::1->ipv6_src,"
        "move:NXM_NX_IPV6_SRC[]->NXM_NX_IPV6_DST[],IN_PORT",
    ),
    (
        match(eth_type=ETH_ARP, arp_op=1, arp_spa=(0x0A000000, 0xFF000000), arp_tpa=0x0A000001, arp_sha=0x020000000001),
        (
            Move("eth_src", "eth_dst"),
            Move("arp_sha", "arp_tha"),
            Move("arp_spa", "arp_tpa"),
            SetField("arp_op", 2),
            OutputInPort(),
        ),
        "arp,arp_spa=10.0.0.0/8,arp_tpa=10.0.0.1,arp_op=1,arp_sha=02:00:00:00:00:01 "
        "actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],"
        "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],set_field:2->arp_op,IN_PORT",
    ),
    (
        match(eth_type=ETH_IPV4, ip_proto=1, icmpv4_type=3, vlan_vid=VLAN_PRESENT | 100),
        (PopVlan(), Output(7)),
        "icmp,dl_vlan=100,icmp_type=3 actions=pop_vlan,output:7",
    ),
    (
        match(tcp_src=(0, 1), reg3=5, **TCP),
        (Resubmit(21), Multipath(64, "reg3", 1024), LEARN, Goto(40)),
        "tcp,reg3=0x5,tp_src=0x0/0x1 actions=resubmit(,21),multipath(symmetric_l4,1024,modulo_n,64,0,NXM_NX_REG3[]),"
        "learn(table=21,idle_timeout=300,fin_idle_timeout=10,priority=100,cookie=0xd07000000050001,limit=1000,"
        "eth_type=0x800,nw_proto=6,NXM_OF_IP_SRC[],NXM_OF_IP_DST[],NXM_OF_TCP_SRC[],NXM_OF_TCP_DST[],"
        "load:NXM_NX_REG2[]->NXM_NX_REG2[]),goto_table:40",
    ),
    (
        match(eth_type=ETH_IPV6, ip_proto=PROTO_UDP, udp_dst=53),
        (LEARN6,),
        "udp6,tp_dst=53 actions=learn(table=22,idle_timeout=60,priority=9,cookie=0x3,eth_type=0x86dd,nw_proto=17,"
        "NXM_NX_IPV6_SRC[],NXM_OF_UDP_SRC[],load:NXM_NX_REG4[]->NXM_NX_REG4[])",
    ),
    (
        match(in_port=4, eth_dst=0x0180C200000E),
        (ToController(),),
        "in_port=4,dl_dst=01:80:c2:00:00:0e actions=CONTROLLER:65535",
    ),
)
ENTRIES = tuple(
    FlowEntry(2, 100 + number, what, actions, make_cookie(Kind.BASE, 7, 1))
    for number, (what, actions, _) in enumerate(CASES)
)


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVSwitch]:
    folder = tmp_path_factory.mktemp("wire")
    made = OpenVSwitch("sw1", 1, folder / "sw1")
    try:
        made.start()
        yield made
    finally:
        made.stop()
        made.remove()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def channel(switch: OpenVSwitch, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpenFlowChannel]:
    pki = Pki(tmp_path_factory.mktemp("pki"))
    arrived: asyncio.Queue[OpenFlowChannel] = asyncio.Queue()

    async def connected(name: str, made: OpenFlowChannel) -> None:
        await arrived.put(made)

    context = pki.issue("controller", "controller").server_context()
    terminator = Terminator("lab", context, connected, lambda address, reason: pytest.fail(reason))
    port = await terminator.start("0.0.0.0", 0)
    try:
        await asyncio.to_thread(switch.set_controller, pki.issue("switch", "sw1"), port)
        async with asyncio.timeout(20):
            made = await arrived.get()
            await made.take_role(Role.MASTER, 1)
            yield made
    finally:
        await terminator.stop()
        switch.vsctl("del-controller", switch.name)


async def test_the_switch_understands_every_field_and_action(channel: OpenFlowChannel, switch: OpenVSwitch) -> None:
    await channel.apply([GroupChange("+", GROUP), *(FlowChange("+", entry) for entry in ENTRIES)])
    printed = {line.partition("priority=")[2].partition(",")[0]: line for line in switch.flows()}
    for number, (_, _, text) in enumerate(CASES):
        assert printed[str(100 + number)].endswith(f"table=2, priority={100 + number},{text}")
    groups = switch.ofctl("dump-groups")
    assert (
        "group_id=218103809,type=ff,bucket=watch_port:7,actions=output:7,"
        "bucket=watch_port:8,actions=push_vlan:0x8100,set_field:4196->vlan_vid,output:8" in groups
    )


async def test_the_switch_answers_what_was_written(channel: OpenFlowChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []
    plain = replies.flows

    def kept(body: bytes) -> FlowReading:
        bodies.append(body)
        return plain(body)

    monkeypatch.setattr(replies, "flows", kept)
    await channel.apply([GroupChange("+", GROUP), *(FlowChange("+", entry) for entry in ENTRIES)])
    reading = await channel.read_flows()
    assert {counted.entry for counted in reading.entries} == set(ENTRIES)
    assert reading.foreign == 0
    assert (await channel.read_groups()).groups == (GROUP,)
    answered = b"".join(bodies)
    for entry in ENTRIES:
        _, body = wire.encode_change(FlowChange("+", entry))
        assert body[40:] in answered, f"other bytes are answered than were sent: {entry}"


async def test_a_whole_fabric_is_written_counted_read_and_removed(channel: OpenFlowChannel) -> None:
    documents = samples.shop(app_1="dark", app_2="draining")
    wanted = samples.compiled(documents).tables["sw1"]
    await channel.apply(difference(TableSet(), wanted))
    assert difference(await everything(channel), wanted) == ()
    await channel.apply(difference(wanted, TableSet()))
    assert await everything(channel) == TableSet()


async def everything(channel: OpenFlowChannel) -> TableSet:
    entries = [counted.entry for counted in (await channel.read_flows()).entries]
    return TableSet.of(entries, (await channel.read_groups()).groups, (await channel.read_meters()).meters)


async def test_a_meter_is_added_changed_read_and_removed(channel: OpenFlowChannel, switch: OpenVSwitch) -> None:
    metered = (Metered(NUMBER), ToController())
    uses = FlowChange("+", FlowEntry(2, 1, match(in_port=9), metered, make_cookie(Kind.BASE, 7, 1)))
    meter = MeterEntry(NUMBER, 200, 100)
    await channel.apply([MeterChange("+", meter), uses])
    assert (await channel.read_meters()).meters == (meter,)
    printed = switch.ofctl("dump-meter", f"meter={NUMBER}")
    assert f"meter={NUMBER} pktps burst stats bands=" in printed and "type=drop rate=200 burst_size=100" in printed
    other = MeterEntry(NUMBER, 50, 5)
    await channel.apply([MeterChange("~", other)])
    assert (await channel.read_meters()).meters == (other,)
    switch.ofctl("add-meter", "meter=5,kbps,band=type=drop,rate=7")
    switch.ofctl("mod-meter", f"meter={NUMBER},kbps,band=type=drop,rate=7")
    assert (await channel.read_meters()).meters == (MeterEntry(NUMBER, 0, 0),)
    with pytest.raises(ChannelError, match=r"1 of 1 changes refused; the first: .*METER_EXISTS.*meter=3333,pktps"):
        await channel.apply([MeterChange("+", meter)])
    switch.ofctl("del-meter", "meter=5")
    await channel.apply([FlowChange("-", uses.entry), MeterChange("-", meter)])
    assert await everything(channel) == TableSet()


async def test_a_refused_change_is_named_and_nothing_is_changed(channel: OpenFlowChannel) -> None:
    wrong = FlowEntry(2, 1, match(tcp_dst=80), (), make_cookie(Kind.BASE, 7, 1))
    good = [FlowChange("+", entry) for entry in ENTRIES[:1]]
    with pytest.raises(ChannelError, match=r"1 of 3 changes refused; the first: .*BAD_PREREQ.*tp_dst=80"):
        await channel.apply([*good, FlowChange("+", wrong), *good])
    assert await everything(channel) == TableSet()
