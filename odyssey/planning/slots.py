# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which node serves which part of the new connections to a service address.

Each node gets slots in proportion to its weight by the method of Webster (Sainte-Lague), except that every node with a
weight gets one at least. It is a divisor method, hence coherent (Balinski and Young, Fair Representation, 1982): what
a node that comes gets is taken from the others and nothing else moves, and what a node that goes leaves is given to
the others and nothing else moves. With equal weights the numbers differ by one at most, as with the largest remainder,
which is not coherent for other weights.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from ipaddress import IPv4Network

BORDER_PARTS = 8
"""Into how many aligned parts the clients behind a border are divided at the most."""


def assign(previous: Sequence[str], weights: Mapping[str, int], size: int) -> tuple[str, ...]:
    """The node of each of `size` slots, with the fewest moves from `previous`; empty if no node has a weight.

    A weight of 0 gets no slot. Where `previous` has another size (both are powers of two) a connection's slot number
    keeps its low bits, so that `previous` is cut, or repeated.
    """
    members = {node: weight for node, weight in weights.items() if weight > 0}
    if not members:
        return ()
    before = [previous[number % len(previous)] for number in range(size)] if previous else [""] * size
    left = Counter(_shares(Counter(before), members, size))
    slots: list[str | None] = []
    for node in before:
        keeps = left[node] > 0
        left[node] -= keeps
        slots.append(node if keeps else None)
    # In turn, so that the slots of one node do not lie side by side.
    waiting = deque(sorted(node for node in members if left[node] > 0))
    for number, holder in enumerate(slots):
        if holder is None:
            node = waiting.popleft()
            slots[number] = node
            left[node] -= 1
            if left[node]:
                waiting.append(node)
    return tuple(node for node in slots if node is not None)


def _shares(held: Mapping[str, int], members: Mapping[str, int], size: int) -> dict[str, int]:
    """How many slots each member gets. Of equals, the one that has the slot already gets it, then the first by name."""
    shares = dict.fromkeys(members, 0)
    # Only so many nodes as there are slots can have one: the heaviest.
    chosen = sorted(members, key=lambda node: (-members[node], -held.get(node, 0), node))[:size]
    shares.update(dict.fromkeys(chosen, 1))
    heap = [_claim(node, 1, held, members) for node in chosen]
    heapq.heapify(heap)
    for _ in range(size - len(chosen)):
        node = heap[0][2]
        shares[node] += 1
        heapq.heapreplace(heap, _claim(node, shares[node], held, members))
    return shares


def _claim(node: str, share: int, held: Mapping[str, int], members: Mapping[str, int]) -> tuple[Fraction, bool, str]:
    """How strongly a node with `share` slots asks for one more; the smallest is served first."""
    return Fraction(2 * share + 1, members[node]), held.get(node, 0) <= share, node


def pin(
    previous: Mapping[str, str], clients: Iterable[str], weights: Mapping[str, int], staying: Collection[str]
) -> dict[str, str]:
    """The node that serves each of `clients` (prefixes), for switches that cannot remember connections.

    A client stays with its node while that is in `staying` (admitted or draining); another one goes to the node with
    the fewest clients for its weight. A client that nobody can serve is left out.
    """
    wanted = sorted(set(clients), key=IPv4Network)
    pins = {client: previous[client] for client in wanted if previous.get(client) in staying}
    members = {node: weight for node, weight in weights.items() if weight > 0}
    counts = Counter(pins.values())
    for client in wanted if members else ():
        if client not in pins:
            node = min(members, key=lambda name: (Fraction(counts[name] + 1, members[name]), name))
            pins[client] = node
            counts[node] += 1
    return {client: pins[client] for client in wanted if client in pins}


def parts(prefix: IPv4Network) -> list[str]:
    """The clients behind a border: its prefix in at most `BORDER_PARTS` aligned parts."""
    bits = min(BORDER_PARTS.bit_length() - 1, prefix.max_prefixlen - prefix.prefixlen)
    return [str(part) for part in prefix.subnets(prefixlen_diff=bits)]
