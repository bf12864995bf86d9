# SPDX-License-Identifier: AGPL-3.0-or-later
"""Keeps the state of every port as its switch last told it, and tells the others of changes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from controller.channel import Channel
from controller.fabric import Inventory, Port
from controller.ports import Attached, PortChange, PortState, attached

_log = logging.getLogger(__name__)
Publish = Callable[[str, Mapping[str, Any]], None]
#: Called after the set of ports that are down may have become another.
Listener = Callable[[], None]


class PortWatch:
    """The ports of all switches; what a switch told last stays true while it is away."""

    def __init__(self, inventory: Callable[[], Inventory | None], publish: Publish) -> None:
        self._inventory = inventory
        self._publish = publish
        self._states: dict[str, dict[int, PortState]] = {}
        self._told: dict[Port, bool] = {}  # what others were last told, by port; without an entry: up
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """Have ``listener`` called whenever a port of the inventory goes up or down."""
        self._listeners.append(listener)

    async def follow(self, switch: str, channel: Channel) -> None:
        """Read the ports of a switch that connected and take note of every change from now on.  Raises ChannelError."""
        early: list[PortChange] = []
        channel.on_port(early.append)
        found = {state.number: state for state in await channel.read_ports()}
        self._states[switch] = found
        for change in early:
            self._take(switch, change)
        channel.on_port(lambda change: self._changed(switch, change))
        self.tell(switch)

    def _take(self, switch: str, change: PortChange) -> None:
        states = self._states.setdefault(switch, {})
        if change.gone:
            states.pop(change.state.number, None)
        else:
            states[change.state.number] = change.state

    def _changed(self, switch: str, change: PortChange) -> None:
        self._take(switch, change)
        self.tell(switch)

    def tell(self, switch: str) -> None:
        """Publish what became of the ports that the inventory names; others may be other people's."""
        changed = False
        states = self._states.get(switch, {})
        for number, what in self._attached(switch).items():
            port, state = Port(switch, number), states.get(number)
            up = state is not None and state.up
            if up == self._told.get(port, True):
                continue
            self._told[port] = up
            changed = True
            _log.log(logging.INFO if up else logging.WARNING, "%s (%s) is %s", port, what, "up" if up else "down")
            name = state.name if state is not None else None
            data = {"switch": switch, "port": number, "name": name, "up": up, "attached": what.to_json()}
            self._publish("switch.port", data)
        for listener in self._listeners if changed else ():
            listener()

    def _attached(self, switch: str) -> Mapping[int, Attached]:
        inventory = self._inventory()
        return {} if inventory is None or switch not in inventory.switches else attached(inventory, switch)

    def states(self, switch: str) -> Mapping[int, PortState] | None:
        """Return the ports of a switch as it last told them, by number; None if it never did."""
        return self._states.get(switch)

    def down(self) -> frozenset[Port]:
        """Return the ports of the inventory that are down, as far as their switches told."""
        return frozenset(
            Port(switch, number)
            for switch, states in self._states.items()
            for number in self._attached(switch)
            if number not in states or not states[number].up
        )
