# SPDX-License-Identifier: AGPL-3.0-or-later
"""What can be asked without changing anything: the folded state joined with what participants observe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from odyssey.api.cabling import Cabling
from odyssey.api.parameters import text
from odyssey.model.naming import CONTROLLER, maintenance_document
from odyssey.model.platform import RESOURCES
from odyssey.model.state import WEIGHT
from odyssey.orchestrator.calls import CallBook
from odyssey.orchestrator.questions import Questions
from odyssey.state.view import StateView
from rdmp.hub import Hub
from rdmp.rpc import RpcError

_LOG_LINES = 1000
Params = Mapping[str, Any]
Answer = dict[str, Any]


class Queries:
    """One method for each read-only RPC. Every answer is a JSON object."""

    def __init__(
        self, cluster: str, epoch: int, view: StateView, calls: CallBook, questions: Questions, hub: Hub,
        controllers: Callable[[], Answer],
    ) -> None:  # fmt: skip
        """`controllers` tells who leads."""
        self._cluster = cluster
        self._epoch = epoch
        self._view = view
        self._calls = calls
        self._questions = questions
        self._hub = hub
        self._controllers = controllers
        self.cabling = Cabling(view, questions)

    async def status(self, _params: Params) -> Answer:
        """Who leads, who is connected, how transactions stand."""
        return {
            "cluster": self._cluster, "epoch": self._epoch, "incarnation": self._view.incarnation,
            "index": self._view.index, "peers": self._peers(), "transactions": self._view.counts(),
            **self._controllers(),
        }  # fmt: skip

    async def peers(self, _params: Params) -> Answer:
        """Everybody who is connected."""
        return {"peers": self._peers()}

    def _peers(self) -> list[Answer]:
        return [
            {"name": peer.name, "role": peer.role, "since": peer.since, "address": peer.address}
            for peer in self._hub.peers()
        ]

    async def state(self, params: Params) -> Answer:
        """State documents whose key starts with `prefix`."""
        return {"index": self._view.index, "documents": self._view.starting(str(params.get("prefix", "")))}

    async def inventory(self, _params: Params) -> Answer:
        """The inventory document."""
        return {"document": self._document("inventory", "there is no inventory yet (odysseyctl inventory apply FILE)")}

    async def transactions(self, params: Params) -> Answer:
        """All transactions that are kept, oldest first; `state` filters."""
        wanted = params.get("state")
        entries = sorted(self._view.entries.values(), key=lambda entry: entry.record.seq)
        return {"transactions": [entry.summary() for entry in entries if wanted in (None, entry.record.state)]}

    async def transaction(self, params: Params) -> Answer:
        """One transaction with everything that it decided."""
        entry = self._view.entries.get(text(params, "id"))
        if entry is None:
            raise RpcError("not_found", f"there is no transaction {params['id']} (odysseyctl tx ls)")
        return entry.document()

    async def call(self, params: Params) -> Answer:
        """How a service call stands, with its answer once it has one."""
        found = await self._calls.find(text(params, "id"))
        if found is None:
            raise RpcError("not_found", f"there is no call {params['id']}")
        answer: Answer = {"id": found.id, "nodes": [], "index": self._view.index, **(found.answer or {})}
        answer["state"] = found.state
        answer["service"] = found.request["SYSServiceID"]
        answer["transactions"] = self._view.summaries(found.transactions)
        return answer

    async def nodes(self, params: Params) -> Answer:
        """Nodes with what their agents see of them."""
        wanted = [
            node for node in self._view.values("node/")
            if params.get("platform") in (None, node["platform"]) and params.get("network") in (None, node["network"])
        ]  # fmt: skip
        seen = await self._questions.observe(node["host"] for node in wanted)
        return {"nodes": [_node(node, seen.get(node["host"])) for node in wanted]}

    async def node(self, params: Params) -> Answer:
        """One node."""
        node = self._node_document(params)
        seen = await self._questions.observe([node["host"]])
        found = (seen[node["host"]] or {}).get("nodes", {}).get(node["node"])
        return {**_node(node, seen[node["host"]]), "observed": found}

    async def logs(self, params: Params) -> Answer:
        """The last lines that a node wrote."""
        node = self._node_document(params)
        tail = min(int(params.get("tail") or 100), _LOG_LINES)
        return dict(await self._questions.ask(node["host"], "logs", {"node": node["node"], "tail": tail}))

    async def networks(self, params: Params) -> Answer:
        """Networks with their scale, wanted and found."""
        names = [
            key.removeprefix("network/") for key in self._view.starting("network/")
            if params.get("platform") in (None, key.split("/")[1])
        ]  # fmt: skip
        return {"networks": [self._network(*name.split("/")) for name in names]}

    def _network(self, platform: str, network: str) -> Answer:
        declared = self._view.documents[f"platform/{platform}"]["networks"][network]
        phases = [
            node["phase"] for node in self._view.values("node/")
            if (node["platform"], node["network"]) == (platform, network)
        ]  # fmt: skip
        scale = declared.get("scale", {})
        return {
            "platform": platform, "network": network, "subnet": declared["subnet"], "vlan": declared["vlan"],
            "image": declared["image"], "min": scale.get("min", 1), "max": scale.get("max", 1),
            "count": self._view.documents[f"network/{platform}/{network}"]["count"],
            **{phase: phases.count(phase) for phase in ("standby", "admitted", "draining")},
            "dependsOn": sorted(declared.get("dependsOn", {})),
            **self._served(declared, f"network/{platform}/{network}"),
        }  # fmt: skip

    def _served(self, declared: Mapping[str, Any], key: str) -> Answer:
        """The service address of a network and how many slots each node has, where there is one."""
        six = {"subnet6": declared["subnet6"]} if "subnet6" in declared else {}
        if "service" not in declared:
            return six
        slots = Counter(self._view.documents[key].get("slots", []))
        return {**six, "service": declared["service"], "slots": dict(sorted(slots.items()))}

    async def hosts(self, _params: Params) -> Answer:
        """Hosts of the inventory, and hosts that joined and stand in no inventory."""
        known = self._view.documents.get("inventory", {}).get("hosts", {})
        agents = {peer.name: peer for peer in self._hub.peers() if peer.role == "agent"}
        return {"hosts": [self._host(name, known.get(name), agents.get(name)) for name in sorted({*known, *agents})]}

    def _host(self, name: str, declared: Mapping[str, Any] | None, peer: Any) -> Answer:
        nodes = [node for node in self._view.values("node/") if node["host"] == name]
        resources = [self._resources(node) for node in nodes]
        return {
            "host": name, "connected": peer is not None, "since": peer.since if peer else None,
            "inventory": declared is not None, "labels": (declared or {}).get("labels", {}),
            "capacity": (declared or {}).get("capacity", {}), "nodes": sorted(node["node"] for node in nodes),
            "used": {
                "nodes": len(nodes), "cpus": round(sum(item["cpus"] for item in resources), 3),
                "memoryMiB": sum(item["memoryMiB"] for item in resources),
            },
        }  # fmt: skip

    def _resources(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """What placement counts for a node."""
        networks = self._view.documents.get(f"platform/{node['platform']}", {}).get("networks", {})
        return {**RESOURCES, **networks.get(node["network"], {}).get("resources", {})}

    async def host(self, params: Params) -> Answer:
        """One host with everything that its agent sees."""
        name = text(params, "host")
        found = next((host for host in (await self.hosts({}))["hosts"] if host["host"] == name), None)
        if found is None:
            raise RpcError("not_found", f"there is no host {name} (odysseyctl host ls)")
        return {**found, "observed": (await self._questions.observe([name]))[name]}

    async def switches(self, _params: Params) -> Answer:
        """Switches of the inventory with what the controller sees of them."""
        declared = self._view.documents.get("inventory", {}).get("fabric", {}).get("switches", {})
        answer = await self._questions.try_ask(CONTROLLER, "switches", {})
        seen = (answer or {}).get("switches", {})
        return {
            "controller": answer is not None,
            "switches": [
                {
                    "switch": name, "datapathId": item["datapathId"], "profile": item["profile"],
                    "capacity": item.get("maxEntries"), "connected": False, "entries": None, "groups": None,
                    "drift": None, "use": self._use(name), **seen.get(name, {}),
                }
                for name, item in declared.items()
            ],
        }  # fmt: skip

    def _use(self, switch: str) -> str:
        """Whether a switch is used: used, unused or isolated."""
        phase = self._view.documents.get(maintenance_document(switch), {}).get("phase", "over")
        return "used" if phase == "over" else str(phase)

    async def flows(self, params: Params) -> Answer:
        """Flow entries read from a switch now."""
        return dict(await self._questions.ask(CONTROLLER, "flows", params))

    async def platforms(self, _params: Params) -> Answer:
        """All platforms with the number of their nodes."""
        nodes = self._view.values("node/")
        return {
            "platforms": [
                {
                    "platform": document["platform"], "networks": sorted(document["networks"]),
                    "nodes": sum(node["platform"] == document["platform"] for node in nodes),
                }
                for document in self._view.values("platform/")
            ]
        }  # fmt: skip

    async def platform(self, params: Params) -> Answer:
        """One platform: its document, networks and nodes."""
        name = text(params, "platform")
        document = self._document(f"platform/{name}", f"there is no platform {name} (odysseyctl platform ls)")
        return {
            "platform": name, "document": document,
            "networks": (await self.networks({"platform": name}))["networks"],
            "nodes": (await self.nodes({"platform": name}))["nodes"],
        }  # fmt: skip

    def owner(self, params: Params) -> tuple[str, str]:
        """Platform and network of the `node` that is asked about; empty for one that there is not."""
        found = self._view.documents.get(f"node/{params.get('node')}", {})
        return found.get("platform", ""), found.get("network", "")

    def _node_document(self, params: Params) -> Mapping[str, Any]:
        name = text(params, "node")
        return self._document(f"node/{name}", f"there is no node {name} (odysseyctl node ls)")

    def _document(self, key: str, absent: str) -> Mapping[str, Any]:
        found = self._view.documents.get(key)
        if found is None:
            raise RpcError("not_found", absent)
        return found


def _node(node: Mapping[str, Any], observation: Mapping[str, Any] | None) -> Answer:
    seen = (observation or {}).get("nodes", {}).get(node["node"], {})
    absent = "unknown" if observation is None else "absent"
    weight = node.get("weight", WEIGHT)
    return {**node, "weight": weight, "state": seen.get("state", absent), "healthy": seen.get("healthy")}
