# SPDX-License-Identifier: AGPL-3.0-or-later
"""Descriptions, counters and changes of ports in OpenFlow 1.3.5 (7.2.1, 7.3.5.6, 7.3.5.7, 7.4.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from os_ken.ofproto import ofproto_v1_3, ofproto_v1_3_parser

from controller.fabric import parse_mac
from controller.ports import PortChange, PortCounters, PortState

_P, _O = ofproto_v1_3_parser, ofproto_v1_3

ANSWERS = (_P.OFPPortDescStatsReply, _P.OFPPortStatsReply)
CHANGE = _P.OFPPortStatus


def describe_request(datapath: Any) -> Any:
    """Return the request for the description of all ports."""
    return _P.OFPPortDescStatsRequest(datapath, 0)


def counters_request(datapath: Any) -> Any:
    """Return the request for the counters of all ports."""
    return _P.OFPPortStatsRequest(datapath, 0, _O.OFPP_ANY)


def states(parts: Iterable[Any]) -> tuple[PortState, ...]:
    """Return what an answer describes; reserved ports (the switch's own, LOCAL) are left out."""
    return tuple(_state(port) for part in parts for port in part.body if port.port_no <= _O.OFPP_MAX)


def counters(parts: Iterable[Any]) -> tuple[PortCounters, ...]:
    """Return what an answer counts, without reserved ports."""
    return tuple(
        PortCounters(
            number=one.port_no,
            rx_packets=_known(one.rx_packets),
            tx_packets=_known(one.tx_packets),
            rx_bytes=_known(one.rx_bytes),
            tx_bytes=_known(one.tx_bytes),
            rx_dropped=_known(one.rx_dropped),
            tx_dropped=_known(one.tx_dropped),
            rx_errors=_known(one.rx_errors),
            tx_errors=_known(one.tx_errors),
            seconds=one.duration_sec + one.duration_nsec / 1e9,
        )
        for part in parts
        for one in part.body
        if one.port_no <= _O.OFPP_MAX
    )


def change(message: Any) -> PortChange | None:
    """Return what a switch tells of a port; None for a reserved one."""
    if message.desc.port_no > _O.OFPP_MAX:
        return None
    return PortChange(_state(message.desc), message.reason == _O.OFPPR_DELETE)


def _state(port: Any) -> PortState:
    name = port.name.decode("utf-8", "replace") if isinstance(port.name, bytes) else str(port.name)
    up = not port.config & _O.OFPPC_PORT_DOWN and not port.state & _O.OFPPS_LINK_DOWN
    return PortState(port.port_no, name.rstrip("\0"), up, port.curr_speed, parse_mac(port.hw_addr))


def _known(value: int) -> int:
    """A counter that a switch does not have is set to all ones (OpenFlow 1.3.5, 7.3.5.6)."""
    return 0 if value == 0xFFFFFFFFFFFFFFFF else value
