# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every limit of RDMP, by name, in one frozen value.  Times are seconds, sizes bytes, counts plain numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 64  # nesting of objects and arrays in one message
MAX_CONTAINERS = 200_000  # `{` and `[` in one message; 4 MiB of objects and arrays would take 300 MiB and seconds


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits and timers of a hub, a participant or a client; see docs/rdmp.md for what happens at each."""

    # connections
    max_message_bytes: int = 4 * 1024 * 1024
    max_connections: int = 1024
    connections_per_certificate: int = 64
    handshakes_per_address: int = 128
    handshake_timeout: float = 5.0
    max_hello_bytes: int = 65536
    handshakes: int = 64
    heartbeat: float = 2.0
    heartbeat_misses: int = 3
    frame_timeout: float = 30.0
    messages_per_second: int = 5000
    participant_messages_per_second: int = 20_000
    offences_per_connection: int = 100
    send_queue_messages: int = 8192
    send_queue_bytes: int = 16 * 1024 * 1024
    reconnect_min: float = 0.1
    reconnect_max: float = 3.0
    # RPC
    calls_per_peer: int = 64
    call_timeout: float = 30.0
    call_timeout_max: float = 3600.0
    # transactions, coordinator
    open_transactions: int = 1024
    peer_wait: float = 2.0
    stage_wait: float = 30.0
    repeat_interval: float = 2.0
    write_retry_min: float = 0.05
    write_retry_max: float = 2.0
    # transactions, participant
    participant_transactions: int = 1024
    inquire_interval: float = 2.0
    in_doubt_alarm: float = 60.0
    effect_retry_min: float = 0.2
    effect_retry_max: float = 10.0
    journal_batch: int = 512
    # events
    max_event_bytes: int = 256 * 1024
    publish_queue: int = 1024
    event_batch: int = 256
    event_window: int = 256
    ack_timeout: float = 30.0
    subscriptions_per_peer: int = 16
    requests_per_peer: int = 256

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"limit {field.name} is {value!r}; it must be a number above 0")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Limits:
        """Build limits from a TOML table; raises ValueError that names an unknown key or a wrong value."""
        types = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in types:
                raise ValueError(f"unknown limit {key!r}; there are: {', '.join(sorted(types))}")
            if types[key] is int and not isinstance(value, int):
                raise ValueError(f"limit {key} is {value!r}; it must be a whole number")
            values[key] = float(value) if types[key] is float and type(value) is int else value
        return cls(**values)
