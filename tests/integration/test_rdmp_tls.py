# SPDX-License-Identifier: AGPL-3.0-or-later
"""The TLS of rdmp: what a handshake gives, what it does not."""

from __future__ import annotations

import ssl
from pathlib import Path

from rdmp.tls import Identity, peer_identity
from tests.integration.rdmp_support import CLUSTER, Pki


def _exchange(source: ssl.MemoryBIO, sink: ssl.MemoryBIO) -> None:
    sink.write(source.read())


def test_a_handshake_proves_both_ends_and_leaves_no_ticket(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    hub, agent = pki.issue("orchestrator", "o1"), pki.issue("agent", "a1")
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    client = agent.client_context().wrap_bio(client_in, client_out)
    server = hub.server_context().wrap_bio(server_in, server_out, server_side=True)
    waiting = [client, server]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
            _exchange(client_out, server_in)
            _exchange(server_out, client_in)
    assert not waiting
    server.write(b"hello")
    _exchange(server_out, client_in)
    assert client.read() == b"hello"  # tickets would have come before it
    assert client.version() == server.version() == "TLSv1.3"
    assert peer_identity(client) == Identity(CLUSTER, "orchestrator", "o1")
    assert peer_identity(server) == Identity(CLUSTER, "agent", "a1")
    assert client.session is not None and not client.session.has_ticket
