# SPDX-License-Identifier: AGPL-3.0-or-later
"""The entries of the single-table pipeline that let in: who may send what to whom, and where it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from controller.fabric import Border, Network, Policy, ServiceAddress
from controller.families import IPV4, Address, Family, Prefix, term
from controller.flows import (
    PROTO_TCP,
    PROTO_UDP,
    FlowEntry,
    Kind,
    Match,
    Term,
    crc_owner,
    full_mask,
    make_cookie,
    match,
)
from controller.profiles.single_table_layers import (
    FROM_SERVICE,
    GATEWAY,
    HAIRPIN,
    RETURN,
    SERVICE_TO_SERVICE,
)
from controller.profiles.single_table_view import Source, SwitchView, Target, Terms

_PROTOCOLS = {"tcp": PROTO_TCP, "udp": PROTO_UDP}
_ANY_PORT = full_mask("in_port")


@dataclass(frozen=True, slots=True)
class _Shape:
    """The match of many entries that differ in the destination: its terms before and after that one."""

    field: str
    bits: int
    before: tuple[Term, ...]
    after: tuple[Term, ...]

    @classmethod
    def of(cls, terms: Terms, family: Family) -> _Shape:
        found = match(**terms, **{family.target: 0}).terms
        place = [term[0] for term in found].index(family.target)
        return cls(family.target, family.bits, found[:place], found[place + 1 :])

    def to(self, target: Target) -> Match:
        """Return the match for a destination."""
        mask = (1 << self.bits) - (1 << self.bits - target.length)
        return Match((*self.before, (self.field, target.value, mask), *self.after))


@dataclass(frozen=True)
class PolicyEntries:
    """All policies on one switch."""

    view: SwitchView
    _paired: set[frozenset[str]] = field(default_factory=set, compare=False, repr=False)

    def __iter__(self) -> Iterator[FlowEntry]:
        intent = self.view.fabric.intent
        for key in sorted(intent.policies):
            policy = intent.policies[key]
            # A policy in the other direction needs the same ICMP entries: the first policy by key owns them.
            pair = frozenset((policy.source, policy.target))
            first = pair not in self._paired
            self._paired.add(pair)
            for family in self.view.fabric.families:
                yield from self._of_one(policy, family, first)
        for service in intent.services.values():
            yield from self._from_service(service)

    def _of_one(self, policy: Policy, family: Family, first: bool) -> Iterator[FlowEntry]:
        client, server = self._client(policy), self.view.fabric.intent.networks[policy.target]
        if client.prefix_of(family) is None or server.prefix_of(family) is None:
            return
        cookie = make_cookie(Kind.POLICY, crc_owner(policy.key), self._generation(policy.key))
        asks, answers = self._source(client, family), self._source(server, family)
        errors = self._errors(family) if first and self.view.fabric.icmp_errors else ()
        if asks is not None:
            targets = self.view.to_network(server, family)
            for terms in (*self._ports(policy, "dst"), *errors):
                yield from self._let(asks.layers.opens, asks, targets, family, terms, cookie)
            yield from self._to_service(policy, asks, server, family)
        if answers is not None:
            yield from self._answers(policy, answers, client, family, cookie)
            if client is not server:
                for terms in errors:
                    targets = self._targets(client, family, answering=False)
                    yield from self._let(answers.layers.opens, answers, targets, family, terms, cookie)

    def _answers(
        self, policy: Policy, source: Source, client: Network | Border, family: Family, cookie: int
    ) -> Iterator[FlowEntry]:
        for terms in self._ports(policy, "src"):
            targets = self._targets(client, family, answering=terms["ip_proto"] == PROTO_TCP)
            yield from self._let(RETURN, source, targets, family, terms, cookie)
        if isinstance(client, Border) and (gateway := client.gateway_of(family)) is not None:
            owner = make_cookie(Kind.BORDER, crc_owner(client.name), self._generation("inventory"))
            for base in _bases(source, family):
                yield FlowEntry(0, GATEWAY, match(**base, **{family.target: int(gateway)}), (), owner)

    def _client(self, policy: Policy) -> Network | Border:
        fabric = self.view.fabric
        return fabric.inventory.borders[policy.source] if policy.from_border else fabric.intent.networks[policy.source]

    def _source(self, end: Network | Border, family: Family) -> Source | None:
        return self.view.of_border(end, family) if isinstance(end, Border) else self.view.of_network(end, family)

    def _targets(self, end: Network | Border, family: Family, *, answering: bool) -> tuple[Target, ...]:
        if isinstance(end, Network):
            return self.view.to_network(end, family, answering=answering)
        target = self.view.to_border(end, family)
        return () if target is None else (target,)

    def _generation(self, key: str) -> int:
        return self.view.fabric.intent.generations.get(key, 0)

    def _ports(self, policy: Policy, side: str) -> Iterator[Terms]:
        for service in policy.services:
            yield {"ip_proto": _PROTOCOLS[service.protocol], f"{service.protocol}_{side}": service.port}

    def _errors(self, family: Family) -> tuple[Terms, ...]:
        return tuple({"ip_proto": family.icmp, family.icmp_type: number} for number in family.errors)

    def _let(
        self, layer: int, source: Source, targets: tuple[Target, ...], family: Family, terms: Terms, cookie: int
    ) -> Iterator[FlowEntry]:
        """Let something go from a source to each target."""
        for base in _bases(source, family):
            shape = _Shape.of(base | terms, family)
            for target in targets:
                yield from self._entries(layer + target.length, shape.to(target), source, target, cookie)

    def _entries(self, priority: int, what: Match, source: Source, target: Target, cookie: int) -> Iterator[FlowEntry]:
        yield FlowEntry(0, priority, what, target.actions, cookie)
        if self.view.reflects and source.entering.get(target.port, frozenset()) - {target.node}:
            back = Match((("in_port", target.port, _ANY_PORT), *what.terms))  # the first field of a match
            yield FlowEntry(0, priority + HAIRPIN, back, target.back(), cookie)

    # Services: the member of a client is what its pin says

    def _to_service(self, policy: Policy, source: Source, server: Network, family: Family) -> Iterator[FlowEntry]:
        service = self.view.fabric.intent.services.get(server.key)
        if service is None or (address := service.address_of(family)) is None:
            return
        cookie = self._cookie(service)
        there: Terms = {family.target: int(address)}
        for pin, client, node in _pinned(service, source.prefix) if family is IPV4 else ():
            target = self.view.to_member(self.view.fabric.intent.bindings[node], address)
            if target is None:
                continue
            priority = source.layers.pinned + pin.prefixlen
            for base in source.bases:
                for terms in self._ports(policy, "dst"):
                    what = base | {family.source: term(client)} | there | terms
                    yield from self._entries(priority, match(**what), source, target, cookie)
        for base in _bases(source, family):
            yield FlowEntry(0, source.layers.unpinned, match(**base, **there), (), cookie)
        own = self._own_service(source, family)
        if own is not None:
            for base in source.bases:
                what = base | there | {family.source: int(own)}
                yield FlowEntry(0, SERVICE_TO_SERVICE, match(**what), (), cookie)

    def _own_service(self, source: Source, family: Family) -> Address | None:
        """Return the service address from which the nodes of a source may answer."""
        service = self.view.fabric.intent.services.get(source.key)
        return None if service is None else service.address_of(family)

    def _from_service(self, service: ServiceAddress) -> Iterator[FlowEntry]:
        """Drop what a service address sends besides answers, which stand above."""
        network = self.view.fabric.intent.networks[service.network]
        for family in self.view.fabric.families:
            source, address = self.view.of_network(network, family), service.address_of(family)
            if source is not None and address is not None:
                for base in source.bases:
                    what = match(**base, **{family.source: int(address)})
                    yield FlowEntry(0, FROM_SERVICE, what, (), self._cookie(service))

    def _cookie(self, service: ServiceAddress) -> int:
        return make_cookie(Kind.SERVICE, crc_owner(service.key), self._generation(service.key))


def _bases(source: Source, family: Family) -> Iterator[Terms]:
    return (base | {family.source: term(source.prefix)} for base in source.bases)


def _pinned(service: ServiceAddress, prefix: Prefix) -> Iterator[tuple[IPv4Network, IPv4Network, str]]:
    """Yield the pins that concern clients of a prefix: pin, clients, node.

    Of those that hold all of the prefix only the longest counts.
    """
    assert isinstance(prefix, IPv4Network)
    around = [pin for pin in service.pins if prefix.subnet_of(pin)]
    if around:
        pin = max(around, key=lambda pin: pin.prefixlen)
        yield pin, prefix, service.pins[pin]
    for pin, node in service.pins.items():
        if pin.subnet_of(prefix) and pin != prefix:
            yield pin, pin, node
