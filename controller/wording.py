# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a flow entry is there for, in a few words for people."""

from __future__ import annotations

from typing import Any

from controller.compiler import Compilation, describe
from controller.fabric import Policy
from controller.flows import FlowEntry, Kind
from controller.profiles import Use


def entry_json(switch: str, entry: FlowEntry, compilation: Compilation) -> dict[str, Any]:
    """Return an entry in the words of ovs-ofctl, with its owner, its table's name and what it is there for."""
    return {
        **describe(entry, compilation),
        "tableName": compilation.profile(switch).table_name(entry.table),
        "meaning": meaning(switch, entry, compilation),
    }


def meaning(switch: str, entry: FlowEntry, compilation: Compilation) -> str:
    """Return what an entry does for whom."""
    owner = compilation.owner_name(entry.owner)
    _, _, name = owner.partition("/")
    uses = compilation.profile(switch).uses(entry)
    if entry.kind is Kind.POLICY:
        return _of_policy(compilation.intent.policies.get(owner), owner, uses)
    for use in uses:
        words = {
            Use.SENT: f"lets {name} send from its own port, MAC and address"
            if entry.kind is not Kind.BORDER
            else f"lets in what comes from behind {name}",
            Use.RECEIVED: f"delivers to {name}",
            Use.DRAINED: f"drops new connections: {name} is draining",
            Use.DENIED: f"drops what no policy lets {name} send",
            Use.SPOOFED: "drops what nobody on this port may send (spoofed source, or a node that is not admitted)",
            Use.FRAGMENT: "drops fragments",
        }
        if use in words:
            return words[use]
    verb = "passes on" if entry.actions else "drops"
    places = {
        Kind.BASE: f"{verb} what no other entry of the table matches" if not entry.match.terms else f"{verb} the frame",
        Kind.BINDING: f"{verb} what is for {name}",
        Kind.HOST: f"{verb} what is for host {name}",
        Kind.BORDER: f"{verb} what is for the border {name}",
        Kind.SERVICE: f"{verb} what is for the service of {name}",
        Kind.LEARNED: f"keeps a connection to {name} at its node",
    }
    return verb if entry.kind is None else places.get(entry.kind, f"{verb} what is for {owner}")


def _of_policy(policy: Policy | None, owner: str, uses: tuple[Use, ...]) -> str:
    if policy is None:
        return f"belongs to {owner}"
    source, target = policy.source.partition("/")[2] or policy.source, policy.target.partition("/")[2]
    words = {
        Use.OPENED: f"lets {source} open connections to {target}",
        Use.RETURNED: f"lets {target} answer {source}",
        Use.REPORTED: f"lets ICMP errors pass between {source} and {target}",
        Use.TURNED: f"drops connections that {target} opens to {source} from a service port",
    }
    return next((words[use] for use in uses if use in words), f"belongs to the policy from {source} to {target}")
