# SPDX-License-Identifier: AGPL-3.0-or-later
"""The TLS end of the OpenFlow connections (``docs/decisions/0003-openflow-tls-terminator.md``).

asyncio speaks TLS with a switch and os-ken plain OpenFlow with us, over a socket pair that nobody else can reach.  So
each os-ken connection belongs to exactly one certificate, whose name the channel is handed on with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable

from controller.channel import ChannelError
from controller.openflow.channel import OpenFlowChannel
from controller.openflow.datapath import configure, socket_pair
from rdmp.tls import Identity, IdentityError, peer_identity

_log = logging.getLogger(__name__)
HANDSHAKE_SECONDS = 5.0
MAX_CONNECTIONS = 256
READ_BYTES = 64 * 1024

#: Called with the switch's name once its handshake is done; owns the channel from then on.
Connected = Callable[[str, OpenFlowChannel], Awaitable[None]]
#: Called with the peer's address (or identity) and the reason when a connection is refused.
Turned = Callable[[str, str], None]


class Terminator:
    """Listens for switches."""

    def __init__(self, cluster: str, context: ssl.SSLContext, connected: Connected, refused: Turned) -> None:
        self._cluster = cluster
        self._context = context
        self._connected = connected
        self._refused = refused
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port.  Raises OSError."""
        configure()
        self._server = await asyncio.start_server(
            self._accept, host, port, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:  # stop()
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("peername")[:2]
        address = f"{host}:{port}"
        if len(self._open) > MAX_CONNECTIONS:
            self._refused(address, f"there are already {MAX_CONNECTIONS} connections")
            return
        try:
            identity = peer_identity(writer.get_extra_info("ssl_object"))
        except IdentityError as error:
            self._refused(address, str(error))
            return
        if (identity.cluster, identity.role) != (self._cluster, "switch"):
            expected = Identity(self._cluster, "switch", "NAME")
            self._refused(address, f"the certificate is of {identity}; a switch needs one of {expected}")
            return
        ours, theirs = socket_pair()
        inner_reader, inner_writer = await asyncio.open_connection(sock=theirs)
        # No task group: what it raises keeps this frame, and with it the whole connection, until the garbage collector
        # looks, which is rarely.
        relays = [asyncio.create_task(_relay(reader, inner_writer)), asyncio.create_task(_relay(inner_reader, writer))]
        try:
            channel = await OpenFlowChannel.open(ours, f"{identity.name} ({address})")
            await self._connected(identity.name, channel)
            await channel.closed()
        except (ChannelError, OSError) as error:
            _log.info("%s (%s): %s", identity.name, address, error)
        finally:
            for relay in relays:
                relay.cancel()
            await asyncio.wait(relays)
            inner_writer.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the end of the stream, then end the other side; a slow side slows the other."""
    try:
        with contextlib.suppress(OSError):  # that of TLS is one too
            while data := await reader.read(READ_BYTES):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()
