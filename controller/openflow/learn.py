# SPDX-License-Identifier: AGPL-3.0-or-later
"""Open vSwitch's ``learn`` action as bytes: NXAST_LEARN, and NXAST_LEARN2 where it has a limit (Open vSwitch 2.8).

The layout is that of ``struct nx_action_learn`` and ``nx_action_learn2`` in Open vSwitch's lib/ofp-actions.c: a fixed
part, then specifications of the entry that is learned, each with a header of 16 bits: where the value comes from (a
field or a constant), where it goes (a match or a load), how many bits.
"""

from __future__ import annotations

import struct

from os_ken.ofproto import nicira_ext

from controller.flows import FIELDS, Learn
from controller.openflow.oxm import Foreign, Malformed, named_by, nxm_header

LEARN, LEARN2 = nicira_ext.NXAST_LEARN, 45  # os-ken does not know the second

#: Timeouts (idle, hard), priority, cookie, flags, table, timeouts after a FIN (idle, hard).
_FIXED = struct.Struct("!HHHQHBxHH")
#: What NXAST_LEARN2 has more: limit, and where to write whether it was reached.
_LIMITED = struct.Struct("!IHH")
_HEADER = struct.Struct("!H")
_FIELD_OCTETS = 6  # header and offset of a field

_BITS = nicira_ext.NX_LEARN_N_BITS_MASK
_FROM_CONSTANT = nicira_ext.NX_LEARN_SRC_IMMEDIATE
_TO_MATCH, _TO_LOAD = nicira_ext.NX_LEARN_DST_MATCH, nicira_ext.NX_LEARN_DST_LOAD
_NO_OFFSET = bytes(2)


def _field(name: str) -> bytes:
    return nxm_header(name) + _NO_OFFSET


def _constant_octets(bits: int) -> int:
    return (bits + 15) // 16 * 2


def encode_learn(action: Learn) -> tuple[int, bytes]:
    """Return subtype and body."""
    body = _FIXED.pack(
        action.idle_timeout, 0, action.priority, action.cookie, 0, action.table, action.fin_idle_timeout, 0
    )
    subtype = LEARN
    if action.limit:
        subtype = LEARN2
        body += _LIMITED.pack(action.limit, 0, 0)
    specifications = []
    for name, value in action.terms:
        bits = FIELDS[name]
        head = _HEADER.pack(bits | _FROM_CONSTANT | _TO_MATCH)
        specifications.append(head + value.to_bytes(_constant_octets(bits), "big") + _field(name))
    for names, to in ((action.fields, _TO_MATCH), (action.keeps, _TO_LOAD)):
        specifications += [_HEADER.pack(FIELDS[name] | to) + _field(name) * 2 for name in names]
    return subtype, body + b"".join(specifications)


def decode_learn(subtype: int, body: bytes) -> Learn:
    """Return the action; raises Foreign or Malformed."""
    limited = subtype == LEARN2
    start = _FIXED.size + (_LIMITED.size if limited else 0)
    if len(body) < start:
        raise Malformed(f"learn action with a body of {len(body)} octets")
    idle, hard, priority, cookie, flags, table, fin_idle, fin_hard = _FIXED.unpack_from(body)
    limit, result, padding = _LIMITED.unpack_from(body, _FIXED.size) if limited else (0, 0, 0)
    if hard or flags or fin_hard or result or padding:
        raise Foreign("learn with flags or a hard timeout")
    terms: list[tuple[str, int]] = []
    fields: list[str] = []
    keeps: list[str] = []
    while start + _HEADER.size <= len(body):
        [head] = _HEADER.unpack_from(body, start)
        start += _HEADER.size
        if head == 0:  # padding
            continue
        bits, kind = head & _BITS, head & ~_BITS
        octets = _constant_octets(bits) if kind == _FROM_CONSTANT | _TO_MATCH else _FIELD_OCTETS
        source, target = body[start : start + octets], body[start + octets : start + octets + _FIELD_OCTETS]
        start += octets + _FIELD_OCTETS
        if start > len(body):
            raise Malformed("specification of a learn action reaches beyond it")
        name = named_by(target[:4])
        if bits != FIELDS[name] or target[4:] != _NO_OFFSET:
            raise Foreign(f"learn of a part of {name}")
        if kind == _FROM_CONSTANT | _TO_MATCH:
            terms.append((name, int.from_bytes(source, "big")))
        elif kind not in (_TO_MATCH, _TO_LOAD) or source != target:
            raise Foreign(f"learn of {name} from another field")
        else:
            (fields if kind == _TO_MATCH else keeps).append(name)
    return Learn(
        table, priority, cookie, idle, fin_idle, limit, terms=tuple(terms), fields=tuple(fields), keeps=tuple(keeps)
    )
