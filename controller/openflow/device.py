# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a probe sends to a switch: single changes, packets, questions for roles (OpenFlow 1.3.5, 7.3.4 to 7.3.9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from os_ken.ofproto import ofproto_v1_3, ofproto_v1_3_parser

from controller.changes import Change
from controller.channel import ChannelError
from controller.device import Device, RoleAnswer

if TYPE_CHECKING:
    from controller.openflow.channel import OpenFlowChannel

_P, _O = ofproto_v1_3_parser, ofproto_v1_3

ANSWERS = (_P.OFPRoleReply,)
_ROLES = {
    _O.OFPCR_ROLE_EQUAL: "equal",
    _O.OFPCR_ROLE_MASTER: "master",
    _O.OFPCR_ROLE_SLAVE: "slave",
    _O.OFPCR_ROLE_NOCHANGE: "unchanged",
}
_NEVER_SET = 2**64 - 1


class OpenFlowDevice(Device):
    """A device behind an OpenFlow channel."""

    def __init__(self, channel: OpenFlowChannel) -> None:
        self._channel = channel
        self._datapath = channel.datapath

    async def tables(self) -> int:
        [answer] = await self._channel.ask(_P.OFPFeaturesRequest(self._datapath))
        return int(answer.n_tables)

    async def attempt(self, changes: Sequence[Change]) -> Mapping[int, str]:
        return await self._channel.attempt(changes)

    async def sweep(self, cookie: int, mask: int) -> None:
        message = _P.OFPFlowMod(
            self._datapath,
            cookie=cookie,
            cookie_mask=mask,
            table_id=_O.OFPTT_ALL,
            command=_O.OFPFC_DELETE,
            out_port=_O.OFPP_ANY,
            out_group=_O.OFPG_ANY,
        )
        await self._channel.tell([message])

    async def inject(self, port: int, frame: bytes, count: int) -> None:
        through = [_P.OFPActionOutput(_O.OFPP_TABLE)]
        packets = [
            _P.OFPPacketOut(self._datapath, _O.OFP_NO_BUFFER, port, actions=through, data=frame)
            for _ in range(count)
        ]
        await self._channel.tell(packets)

    async def ask_role(self) -> RoleAnswer:
        return await self._role(_O.OFPCR_ROLE_NOCHANGE, 0)

    async def try_master(self, generation: int) -> RoleAnswer:
        return await self._role(_O.OFPCR_ROLE_MASTER, generation)

    async def _role(self, role: int, generation: int) -> RoleAnswer:
        try:
            [answer] = await self._channel.ask(_P.OFPRoleRequest(self._datapath, role, generation))
        except ChannelError as error:
            if not self._channel.is_open:
                raise
            return RoleAnswer("unchanged", None, str(error))
        heard: int = answer.generation_id
        return RoleAnswer(_ROLES.get(answer.role, str(answer.role)), None if heard == _NEVER_SET else heard)
