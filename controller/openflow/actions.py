# SPDX-License-Identifier: AGPL-3.0-or-later
"""Actions and instructions as bytes, and back (OpenFlow 1.3.5, 7.2.4 and 7.2.5; ovs-actions(7)).

Nicira's actions name fields by NXM headers, as Open vSwitch answers them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from os_ken.ofproto import nicira_ext, ofproto_common, ofproto_v1_3

from controller.flows import (
    ETH_VLAN,
    FIELDS,
    Action,
    ClearInPort,
    Goto,
    Learn,
    Metered,
    Move,
    Multipath,
    Output,
    OutputInPort,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    ToController,
    ToGroup,
    full_mask,
)
from controller.openflow.learn import LEARN, LEARN2, decode_learn, encode_learn
from controller.openflow.oxm import (
    NXM_IN_PORT,
    Foreign,
    Malformed,
    decode_term,
    encode_term,
    named_by,
    nxm_header,
)

REMEMBERED_ACTIONS = 65536

_O = ofproto_v1_3
_HEAD = struct.Struct("!HH")  # type and length of actions and instructions
_NICIRA = struct.Struct("!HHIH")  # type, length, experimenter, subtype
_OUTPUT = struct.Struct("!HHIH6x")
_NUMBER = struct.Struct("!HHI")  # an action or instruction with one number of 32 bits
_PUSH = struct.Struct("!HHH2x")
_EMPTY = struct.Struct("!HH4x")
_GOTO = struct.Struct("!HHB3x")
_MOVE = struct.Struct("!HHH4s4s")
_LOAD = struct.Struct("!H4sQ")
_RESUBMIT = struct.Struct("!HB3x")
_MULTIPATH = struct.Struct("!HH2xHHI2xH4s")

_IN_PORT_BITS = 16  # of NXM_OF_IN_PORT
_SAME_IN_PORT = 0xFFF8  # OFPP_IN_PORT of OpenFlow 1.0: resubmit keeps the ingress port
_SYMMETRIC_L4 = 1  # NX_HASH_FIELDS_SYMMETRIC_L4
_MODULO_N = 0  # NX_MP_ALG_MODULO_N
_ALIGNMENT = 8


def padded(data: bytes) -> bytes:
    """Fill up with zeros to a multiple of 8 octets."""
    return data + bytes(-len(data) % _ALIGNMENT)


def _nicira(subtype: int, body: bytes) -> bytes:
    length = _NICIRA.size + len(body)
    length += -length % _ALIGNMENT
    head = _NICIRA.pack(_O.OFPAT_EXPERIMENTER, length, ofproto_common.NX_EXPERIMENTER_ID, subtype)
    return (head + body).ljust(length, b"\0")


def _output(port: int, octets: int = 0) -> bytes:
    return _OUTPUT.pack(_O.OFPAT_OUTPUT, _OUTPUT.size, port, octets)


def _set_field(action: SetField) -> bytes:
    field = encode_term((action.name, action.value, full_mask(action.name)))
    length = _HEAD.size + len(field)
    length += -length % _ALIGNMENT
    return (_HEAD.pack(_O.OFPAT_SET_FIELD, length) + field).ljust(length, b"\0")


@lru_cache(REMEMBERED_ACTIONS)
def _learn(action: Learn) -> bytes:
    return _nicira(*encode_learn(action))


def _move(action: Move) -> bytes:
    body = _MOVE.pack(FIELDS[action.source], 0, 0, nxm_header(action.source), nxm_header(action.target))
    return _nicira(nicira_ext.NXAST_REG_MOVE, body)


def _multipath(action: Multipath) -> bytes:
    bits = nicira_ext.ofs_nbits(0, FIELDS[action.target] - 1)
    target = nxm_header(action.target)
    body = _MULTIPATH.pack(_SYMMETRIC_L4, action.basis, _MODULO_N, action.slots - 1, 0, bits, target)
    return _nicira(nicira_ext.NXAST_MULTIPATH, body)


_CLEAR_IN_PORT = _nicira(
    nicira_ext.NXAST_REG_LOAD, _LOAD.pack(nicira_ext.ofs_nbits(0, _IN_PORT_BITS - 1), NXM_IN_PORT, 0)
)
_PUSH_VLAN = _PUSH.pack(_O.OFPAT_PUSH_VLAN, _PUSH.size, ETH_VLAN)
_POP_VLAN = _EMPTY.pack(_O.OFPAT_POP_VLAN, _EMPTY.size)
_OUTPUT_IN_PORT = _output(_O.OFPP_IN_PORT)
_TO_CONTROLLER = _output(_O.OFPP_CONTROLLER, _O.OFPCML_NO_BUFFER)

_ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    SetField: _set_field,
    ClearInPort: lambda action: _CLEAR_IN_PORT,
    Move: _move,
    PushVlan: lambda action: _PUSH_VLAN,
    PopVlan: lambda action: _POP_VLAN,
    Output: lambda action: _output(action.port),
    OutputInPort: lambda action: _OUTPUT_IN_PORT,
    ToGroup: lambda action: _NUMBER.pack(_O.OFPAT_GROUP, _NUMBER.size, action.group),
    Resubmit: lambda action: _nicira(nicira_ext.NXAST_RESUBMIT_TABLE, _RESUBMIT.pack(_SAME_IN_PORT, action.table)),
    Multipath: _multipath,
    Learn: _learn,
    ToController: lambda action: _TO_CONTROLLER,
}


def encode_actions(actions: Iterable[Action]) -> bytes:
    """Return an action list; Goto and Metered are instructions and cannot be in it."""
    return b"".join([_ENCODERS[type(action)](action) for action in actions])


def encode_instructions(actions: tuple[Action, ...]) -> bytes:
    """Return the instructions of an entry: meter, actions, goto."""
    before = after = b""
    if actions and isinstance(actions[0], Metered):
        before = _NUMBER.pack(_O.OFPIT_METER, _NUMBER.size, actions[0].meter)
        actions = actions[1:]
    if actions and isinstance(actions[-1], Goto):
        after = _GOTO.pack(_O.OFPIT_GOTO_TABLE, _GOTO.size, actions[-1].table)
        actions = actions[:-1]
    if not actions:
        return before + after
    applied = encode_actions(actions)
    head = _HEAD.pack(_O.OFPIT_APPLY_ACTIONS, _EMPTY.size + len(applied))
    return before + head + bytes(_EMPTY.size - _HEAD.size) + applied + after


def parts(data: bytes, what: str) -> Iterator[tuple[int, bytes]]:
    """Return type and octets of each action or instruction in ``data``; raises Malformed."""
    start = 0
    while start < len(data):
        kind, length = _HEAD.unpack_from(data, start) if start + _HEAD.size <= len(data) else (0, 0)
        if length < _ALIGNMENT or length % _ALIGNMENT or start + length > len(data):
            raise Malformed(f"{what} at octet {start} of {len(data)} has the length {length}")
        yield kind, data[start : start + length]
        start += length


def _decode_output(found: bytes) -> Action:
    if len(found) != _OUTPUT.size:
        raise Malformed(f"output action of {len(found)} octets")
    _, _, port, octets = _OUTPUT.unpack(found)
    if port == _O.OFPP_IN_PORT:
        return OutputInPort()
    if port != _O.OFPP_CONTROLLER:
        return Output(port)
    if octets == _O.OFPCML_NO_BUFFER:
        return ToController()
    raise Foreign("a part of a packet to the controller")


def _decode_set_field(found: bytes) -> Action:
    field = found[_HEAD.size :]
    end = 4 + field[3]
    if end > len(field):
        raise Malformed("field of a set-field action reaches beyond it")
    name, value, mask = decode_term(field[:end])
    if mask != full_mask(name):
        raise Foreign(f"a part of {name} set")
    return SetField(name, value)


def _decode_move(body: bytes) -> Action:
    bits, source_offset, target_offset, source, target = _unpack(_MOVE, body, "move")
    move = Move(named_by(source), named_by(target))
    if source_offset or target_offset or bits != FIELDS[move.source]:
        raise Foreign("a part of a field moved")
    return move


def _decode_load(body: bytes) -> Action:
    if _unpack(_LOAD, body, "load") != (nicira_ext.ofs_nbits(0, _IN_PORT_BITS - 1), NXM_IN_PORT, 0):
        raise Foreign("a load that does not clear the ingress port")
    return ClearInPort()


def _decode_resubmit(body: bytes) -> Action:
    port, table = _unpack(_RESUBMIT, body, "resubmit")
    if port != _SAME_IN_PORT:
        raise Foreign("resubmit with another ingress port")
    return Resubmit(table)


def _decode_multipath(body: bytes) -> Action:
    fields, basis, algorithm, last, argument, bits, target = _unpack(_MULTIPATH, body, "multipath")
    name = named_by(target)
    if (fields, algorithm, argument, bits) != (_SYMMETRIC_L4, _MODULO_N, 0, nicira_ext.ofs_nbits(0, FIELDS[name] - 1)):
        raise Foreign("another multipath")
    return Multipath(last + 1, name, basis)


def _unpack(layout: struct.Struct, body: bytes, what: str) -> tuple[Any, ...]:
    if len(body) < layout.size:
        raise Malformed(f"{what} action with a body of {len(body)} octets")
    return layout.unpack_from(body)


_NICIRA_DECODERS: Mapping[int, Callable[[bytes], Action]] = {
    nicira_ext.NXAST_REG_MOVE: _decode_move,
    nicira_ext.NXAST_REG_LOAD: _decode_load,
    nicira_ext.NXAST_RESUBMIT_TABLE: _decode_resubmit,
    nicira_ext.NXAST_MULTIPATH: _decode_multipath,
    LEARN: lambda body: decode_learn(LEARN, body),
    LEARN2: lambda body: decode_learn(LEARN2, body),
}


def _decode_experimenter(found: bytes) -> Action:
    _, _, experimenter, subtype = _unpack(_NICIRA, found, "experimenter")
    decoder = _NICIRA_DECODERS.get(subtype) if experimenter == ofproto_common.NX_EXPERIMENTER_ID else None
    if decoder is None:
        raise Foreign(f"action {subtype} of experimenter {experimenter:#x}")
    return decoder(found[_NICIRA.size :])


def _decode_push(found: bytes) -> Action:
    if found != _PUSH_VLAN:
        raise Foreign("a push of another tag than 802.1Q")
    return PushVlan()


_DECODERS: Mapping[int, Callable[[bytes], Action]] = {
    _O.OFPAT_OUTPUT: _decode_output,
    _O.OFPAT_GROUP: lambda found: ToGroup(_NUMBER.unpack_from(found)[2]),
    _O.OFPAT_SET_FIELD: _decode_set_field,
    _O.OFPAT_PUSH_VLAN: _decode_push,
    _O.OFPAT_POP_VLAN: lambda found: PopVlan(),
    _O.OFPAT_EXPERIMENTER: _decode_experimenter,
}


@lru_cache(REMEMBERED_ACTIONS)
def _decode_action(kind: int, found: bytes) -> Action:
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise Foreign(f"action of type {kind}")
    return decoder(found)


def decode_actions(data: bytes) -> tuple[Action, ...]:
    """Return an action list; raises Foreign or Malformed."""
    return tuple([_decode_action(kind, found) for kind, found in parts(data, "action")])


def decode_instructions(data: bytes) -> tuple[Action, ...]:
    """Return the actions of an entry; raises Foreign or Malformed."""
    found: dict[int, tuple[Action, ...]] = {}
    for kind, octets in parts(data, "instruction"):
        if kind in found:
            raise Malformed(f"two instructions of type {kind}")
        if kind == _O.OFPIT_APPLY_ACTIONS:
            found[kind] = decode_actions(octets[_EMPTY.size :])
        elif kind == _O.OFPIT_GOTO_TABLE:
            found[kind] = (Goto(_GOTO.unpack_from(octets)[2]),)
        elif kind == _O.OFPIT_METER:
            found[kind] = (Metered(_NUMBER.unpack_from(octets)[2]),)
        else:
            raise Foreign(f"instruction of type {kind}")
    in_order = (_O.OFPIT_METER, _O.OFPIT_APPLY_ACTIONS, _O.OFPIT_GOTO_TABLE)
    return tuple(action for kind in in_order for action in found.get(kind, ()))
