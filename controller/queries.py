# SPDX-License-Identifier: AGPL-3.0-or-later
"""Questions to the controller that change nothing."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import schemas
from controller.cabling import FAULTS, Heard, Nic
from controller.channel import ChannelError
from controller.compiler import capacity_refusals, compile_documents, describe, new_notes, preview, with_changes
from controller.discovery import Discovery
from controller.fabric import IntentRefused, Port
from controller.flows import COOKIE_OWNER_MASK
from controller.ledger import Ledger
from controller.lldp import Announcement
from controller.probes import Probes, Progress
from controller.switches import Switches
from controller.tenure import Tenure
from controller.views import Views
from rdmp.rpc import RpcError

Json = Mapping[str, Any]
#: Entries that one answer carries at most, so that it stays below RDMP's message size.
MAX_ENTRIES = 8000


#: Besides those that ``Views`` answers; ``lead`` and ``follow`` are the participant's own.
_METHODS = ("cabling", "compile", "flows", "follow", "intent", "lead", "probe", "standing", "switches")


async def _untold(_message: Json) -> None:
    """Progress that nobody wants to hear of."""


class Queries:
    """Answers ``observe`` and every call that changes nothing."""

    def __init__(
        self, ledger: Callable[[], Ledger], switches: Switches, discovery: Discovery, tenure: Tenure
    ) -> None:
        self._ledger = ledger
        self._switches = switches
        self._discovery = discovery
        self._tenure = tenure
        self.views = Views(ledger, switches, discovery)
        self._probes = Probes(ledger, switches)
        self._views: Mapping[str, Callable[[Json], Awaitable[Json]]] = {
            "path": self.views.path,
            "fabric": self.views.fabric,
            "switch_ports": self.views.switch_ports,
            "verify": self.views.verify,
            "capacity": self.views.capacity,
            "counters": self.views.counters,
        }

    async def call(self, method: str, params: Json, progress: Progress = _untold) -> Json:
        """Answer a call; raises RpcError."""
        match method:
            case "compile":
                return self.compile(params.get("changes"))
            case "flows":
                return await self.flows(params.get("switch"), params.get("owner"))
            case "switches":
                return {"switches": self.switches()}
            case "standing":
                return self.standing()
            case "intent":
                return {"marks": dict(self._ledger().marks), "open": sorted(self._ledger().open)}
            case "cabling":
                return self.cabling(params.get("hosts"))
            case "probe":
                return await self._probes.run(params, progress)
            case _ if method in self._views:
                return await self._views[method](params)
        known = ", ".join(sorted([*_METHODS, *self._views]))
        raise RpcError("unknown_method", f"the controller has no method {method!r}; it has {known}")

    def observe(self) -> dict[str, Any]:
        """Return the observation (``schemas/controller-observation.schema.json``)."""
        ledger = self._ledger()
        return {
            "revision": ledger.revision,
            "intentDigest": ledger.digest,
            "leads": self._tenure.leads(),
            "generation": self._tenure.generation,
            "switches": self._switches.report(),
            "bindings": {node: binding.phase.value for node, binding in ledger.compilation.intent.bindings.items()},
            "open": {tx: sorted(key.removeprefix("binding/") for key in one.dark) for tx, one in ledger.open.items()},
        }

    def standing(self) -> dict[str, Any]:
        """Return what the appointment of a leader depends on: the head of the observation, and the open work."""
        ledger = self._ledger()
        return {
            "leads": self._tenure.leads(),
            "generation": self._tenure.generation,
            "intentDigest": ledger.digest,
            "reach": self._switches.reach(),
            "open": sorted(ledger.open),
        }

    def switches(self) -> dict[str, Any]:
        """Return the report of every switch with the address that it connects from."""
        report = self._switches.report()
        for name, values in report.items():
            connection = self._switches.connection(name)
            values["address"] = connection.channel.address if connection is not None else None
        return report

    def cabling(self, hosts: Any) -> dict[str, Any]:
        """Judge every cable.

        ``hosts`` is what the agents observed: by host and NIC the ``lldp`` of ``agent-observation`` and, as
        ``attachment``, the switch port where the inventory has it (null: nowhere).
        """
        nics: dict[Nic, Heard | None] = {}
        attachments: dict[Nic, Port] = {}
        try:
            for host, found in dict(hosts or {}).items():
                for name, value in found.items():
                    nic = Nic(host, name)
                    nics[nic] = self._heard_by_nic(value["lldp"])
                    if (place := value.get("attachment")) is not None:
                        attachments[nic] = Port(place["switch"], place["port"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RpcError("invalid", f"$.hosts is not what agents observe: {error!r}") from error
        cables = self._discovery.cables(nics, attachments, frozenset())
        counts = self._discovery.counts
        return {
            "cables": [
                {
                    "at": str(cable.at),
                    "state": cable.state,
                    "expected": cable.expected,
                    "heard": str(cable.heard) if cable.heard is not None else None,
                    "text": cable.text,
                }
                for cable in cables
            ],
            "faults": sum(cable.state in FAULTS for cable in cables),
            "frames": {name: getattr(counts, name) for name in ("ours", "forged", "other_devices", "malformed")},
        }

    def _heard_by_nic(self, value: Any) -> Heard | None:
        if value is None or value["signature"] is None:
            return None
        signature = base64.b64decode(value["signature"], validate=True)
        told = Announcement(int(value["datapathId"], 16), int(value["port"]), signature, int(value["bytes"]))
        port = self._discovery.verified(told)
        return None if port is None else Heard(port, self._discovery.is_full(told))

    def compile(self, changes: Any) -> dict[str, Any]:
        """Return what changes would do to each switch, or why they are refused."""
        faults = schemas.validate("controller-operation", {"stages": {"admit": {"changes": changes}}})
        if faults:
            prefix = "$.stages.admit"
            moved = tuple(
                schemas.Fault(fault.path.replace(prefix, "$", 1), fault.found, fault.expected, fault.message)
                for fault in faults
            )
            raise RpcError("invalid", "the changes do not match their schema", moved)
        ledger = self._ledger()
        now = ledger.compilation
        try:
            after = compile_documents(with_changes(ledger.effective, changes, ledger.revision + 1))
        except IntentRefused as refused:
            return {"switches": {}, "refusals": [_refusal(one) for one in refused.refusals], "notes": {}}
        report = preview(now, after)
        for values in report.values():
            values["truncated"] = max(0, len(values["entries"]) - MAX_ENTRIES // len(report))
            values["entries"] = values["entries"][: MAX_ENTRIES // len(report)]
        refusals = [_refusal(one) for one in capacity_refusals(now, [after])]
        return {"switches": report, "refusals": refusals, "notes": new_notes(now, after)}

    async def flows(self, switch: Any, owner: Any) -> dict[str, Any]:
        """Read the entries of a switch now, with counters; only those of one owner where it is named."""
        compilation = self._ledger().compilation
        connection = self._switches.connection(switch) if isinstance(switch, str) else None
        if connection is None:
            known = ", ".join(compilation.tables) or "none"
            reason = (
                "is not connected" if switch in compilation.tables else f"is not in the inventory; there are: {known}"
            )
            raise RpcError("not_found", f"switch {switch} {reason}")
        cookie = mask = 0
        if owner is not None:
            cookies = {name: number for number, name in compilation.owners.items()}
            if owner not in cookies:
                examples = ", ".join(sorted(cookies)[:5])
                raise RpcError("not_found", f"nothing is owned by {owner!r}; owners are for example: {examples}")
            cookie, mask = cookies[owner], COOKIE_OWNER_MASK
        try:
            reading = await connection.channel.read_flows(cookie, mask)
        except ChannelError as error:
            raise RpcError("failed", str(error)) from error
        entries = [
            {
                **describe(counted.entry, compilation),
                "cookie": f"{counted.entry.cookie:#018x}",
                "packets": counted.packets,
                "bytes": counted.octets,
                "seconds": round(counted.seconds, 3),
            }
            for counted in reading.entries
        ]
        entries.sort(key=lambda entry: (entry["table"], -entry["priority"], entry["match"]))
        return {
            "switch": switch,
            "entries": entries[:MAX_ENTRIES],
            "truncated": max(0, len(entries) - MAX_ENTRIES),
            "foreign": reading.foreign,
        }


def _refusal(refusal: Any) -> dict[str, str]:
    return {"path": refusal.subject, "reason": refusal.reason}
