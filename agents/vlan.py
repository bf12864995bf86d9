# SPDX-License-Identifier: AGPL-3.0-or-later
"""VLAN interfaces of the host (IEEE 802.1Q) below the NICs of nodes whose frames are tagged. Pure.

One `<nic>.<vlan>` for each NIC and network. The agent makes it with the first node that needs it and removes it with
the last. Its alias (ip-link(8)) tells that it is the agent's: an interface that somebody else made is used if it is the
right one and up, and never changed or removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from agents.facts import HostNic
from agents.spec import Attachment

NAME_LIMIT = 15  # IFNAMSIZ - 1, linux/if.h
KIND = "vlan"
PROBE = (  # in a network namespace of its own: can this kernel make VLAN interfaces?
    "link add p0 type veth peer name p1\n"
    "link add link p0 name p0.1 type vlan id 1\n"
)  # fmt: skip
NO_KERNEL_SUPPORT = (
    "taggedNics: the kernel of this host cannot make VLAN interfaces ({why}); load the module with: modprobe 8021q,"
    " or attach the host untagged"
)


def reasons(attachment: Attachment, nics: Mapping[str, HostNic], alias: str) -> tuple[str, ...]:
    """Tell why the VLAN interfaces of a node cannot be had on this host, in words for people."""
    found = [
        f"taggedNics names {nic}, which is not one of nics ({', '.join(attachment.nics)})"
        for nic in sorted(attachment.tagged - set(attachment.nics))
    ]
    if attachment.tagged and attachment.vlan is None:
        return (*found, "taggedNics needs vlan, the VLAN that the node's frames carry")
    for nic, name in _wanted(attachment).items():
        standing = nics.get(name)
        if len(name) > NAME_LIMIT:
            found.append(
                f"the VLAN interface {name} would have a name of more than {NAME_LIMIT} characters; give NIC {nic} a"
                " shorter name"
            )
        elif standing is not None and (standing.kind, standing.parent, standing.vlan) != (KIND, nic, attachment.vlan):
            found.append(f"interface {name} of this host is not VLAN {attachment.vlan} of {nic}; remove or rename it")
        elif standing is not None and standing.alias != alias and not standing.up and nic in nics and nics[nic].up:
            found.append(
                f"interface {name} is down and not the agent's to change; run: ip link set dev {name} up, or remove it"
            )
        elif standing is not None and standing.alias != alias and standing.mtu < attachment.mtu:
            found.append(
                f"interface {name} has MTU {standing.mtu}, the node needs {attachment.mtu};"
                f" run: ip link set dev {name} mtu {attachment.mtu}"
            )
    return tuple(found)


def needs_support(attachment: Attachment, nics: Mapping[str, HostNic]) -> bool:
    """Tell whether a VLAN interface has to be made that does not stand."""
    return any(name not in nics for name in attachment.vlan_interfaces)


def make_commands(attachment: Attachment, nics: Mapping[str, HostNic], alias: str, *, ipv6: bool = True) -> list[str]:
    """Return the `ip -batch` lines, for the host, that bring the VLAN interfaces of a node into order.

    `ipv6`: the kernel has IPv6, and so link-local addresses to be kept off. NICs that are down are left out: what lies
    on them cannot be set up.
    """
    lines = []
    for nic, name in sorted(_wanted(attachment).items()):
        if nic not in nics or not nics[nic].up:
            continue
        standing = nics.get(name)
        if standing is None:
            lines.append(f"link add link {nic} name {name} type vlan id {attachment.vlan}")
            # First of all, so that it is ours whatever fails after; the kernel takes no alias when a link is made.
            lines.append(f"link set dev {name} alias {alias}")
        elif standing.alias != alias or (standing.up and standing.mtu >= attachment.mtu):
            continue
        # No address of its own: the host itself has no part in the VLAN.
        quiet = "addrgenmode none arp off" if ipv6 else "arp off"
        lines.append(f"link set dev {name} {quiet} mtu {attachment.mtu} up")
    return lines


def drop_commands(nics: Mapping[str, HostNic], needed: Set[str], alias: str) -> list[str]:
    """Return the `ip -batch` lines, for the host, that remove VLAN interfaces of ours that no node needs."""
    return [
        f"link del dev {name}"
        for name, nic in sorted(nics.items())
        if nic.kind == KIND and nic.alias == alias and name == f"{nic.parent}.{nic.vlan}" and name not in needed
    ]


def _wanted(attachment: Attachment) -> dict[str, str]:
    """Return the VLAN interface of each tagged NIC."""
    return {nic: attachment.parent(number) for number, nic in enumerate(attachment.nics) if nic in attachment.tagged}
