# SPDX-License-Identifier: AGPL-3.0-or-later
"""os-ken's Datapath without the defects of its native threads, and the application that it reports to.

os-ken 4.2.2 (the newest) with native threads has these defects, each repaired here:

- ``hub.kill()`` does nothing, so after a switch is gone ``serve()`` waits for ever for the send loop, which waits for
  something to send.  No end is ever reported and two threads leak for each connection.  ``serve`` wakes the send loop.
- ``maximum_unreplied_echo_requests`` is 0: a silent switch is never found out.  ``configure`` sets it.
- An echo reply that waits behind a long answer counts as missing.  Any message is taken as a sign of life.
- Threads are not daemon threads, and its listener cannot be stopped.  Threads are our own, and there is no listener:
  the TLS terminator hands over one end of a socket pair for each switch (``terminator.py``).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OSKEN_HUB_TYPE", "native")  # read when os_ken.lib.hub is imported

import os_ken.base.app_manager  # first: importing controller first is a circular import
from os_ken import cfg
from os_ken.controller import controller, ofp_event
from os_ken.controller.handler import DEAD_DISPATCHER, MAIN_DISPATCHER
from os_ken.controller.ofp_handler import OFPHandler
from os_ken.ofproto import ofproto_protocol, ofproto_v1_3

from controller.openflow import replies

MessageSink = Callable[[Any], None]
StateSink = Callable[[str], None]
MAIN, DEAD = MAIN_DISPATCHER, DEAD_DISPATCHER

SOCKET_SECONDS = 10.0  # to send one chunk; the switch is given up afterwards
ECHO_SECONDS = 2.0
ECHO_MISSES = 3
JOIN_SECONDS = 2.0  # how long the end of a connection waits for its send thread


class PairSocket(socket.socket):
    """One end of a socket pair; os-ken sets TCP options, which it does not have."""

    def setsockopt(self, *args: Any) -> None:
        if args[0] != socket.IPPROTO_TCP:
            super().setsockopt(*args)


def socket_pair() -> tuple[PairSocket, socket.socket]:
    """Return two connected sockets: one for a Datapath, one for the terminator."""
    ours, theirs = socket.socketpair()
    return PairSocket(ours.family, ours.type, ours.proto, fileno=ours.detach()), theirs


class RepairedDatapath(controller.Datapath):
    """A connection to a switch; ``on_message`` and ``on_state`` are called in its own thread."""

    def __init__(self, sock: PairSocket, label: str, on_message: MessageSink, on_state: StateSink) -> None:
        self.on_message = on_message
        self.on_state = on_state
        self.label = label
        super().__init__(sock, label)
        # os-ken counts up from here; our own requests use the upper half (channel.py).
        self.xid = 0

    def serve(self) -> None:
        """Run until the connection ends."""
        sender = threading.Thread(target=self._send_loop, name=f"openflow send {self.label}", daemon=True)
        echoer = threading.Thread(target=self._echo_request_loop, name=f"openflow echo {self.label}", daemon=True)
        sender.start()
        self.send_msg(self.ofproto_parser.OFPHello(self))
        echoer.start()
        try:
            self._recv_loop()
        finally:
            self.close()
            self.send(b"", close_socket=True)
            sender.join(JOIN_SECONDS)
            self.is_active = False
            with contextlib.suppress(OSError):
                self.socket.close()
            # They lead back to the owner, who has us: a circle that only the garbage collector could end.
            self.on_message = self.on_state = _ignore


def _ignore(_: Any) -> None:
    """Hear what comes after the end."""


class OpenFlowApp(OFPHandler):
    """os-ken's handshake; everything that comes from a switch goes to the owner of its connection."""

    OFP_VERSIONS = (ofproto_v1_3.OFP_VERSION,)

    def start(self) -> None:
        """Do not listen: connections come from the terminator."""

    def send_event_to_observers(self, ev: Any, state: str | None = None) -> None:
        if isinstance(ev, ofp_event.EventOFPStateChange):
            ev.datapath.on_state(ev.state)
        elif isinstance(ev, ofp_event.EventOFPMsgBase):
            ev.msg.datapath.unreplied_echo_requests.clear()
            ev.msg.datapath.on_message(ev.msg)


_configured = threading.Lock()


def configure() -> None:
    """Set os-ken up, once in a process: its options and applications are module-global."""
    with _configured:
        if os_ken.base.app_manager.lookup_service_brick(ofp_event.NAME) is not None:
            return
        cfg.CONF(args=[], project="odyssey", default_config_files=[], default_config_dirs=[])
        cfg.CONF.set_override("socket_timeout", SOCKET_SECONDS)
        cfg.CONF.set_override("echo_request_interval", ECHO_SECONDS)
        cfg.CONF.set_override("maximum_unreplied_echo_requests", ECHO_MISSES)
        ofproto_protocol.set_app_supported_versions(OpenFlowApp.OFP_VERSIONS)
        replies.install()
        os_ken.base.app_manager.register_app(OpenFlowApp())
