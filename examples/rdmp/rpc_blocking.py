# SPDX-License-Identifier: AGPL-3.0-or-later
"""Calls without asyncio, for scripts and threads: python examples/rdmp/rpc_blocking.py ENDPOINT PKI."""

import sys
from pathlib import Path

from rdmp.blocking import BlockingClient
from rdmp.endpoints import Endpoint
from rdmp.rpc import RpcError
from rdmp.tls import TlsFiles

pki = Path(sys.argv[2])
with BlockingClient(Endpoint.parse(sys.argv[1]), TlsFiles(pki / "cert.pem", pki / "key.pem", pki / "ca.pem")) as client:
    print(client.call("whoami", timeout=5)["identity"])
    try:
        client.call("nothing", timeout=5)
    except RpcError as error:
        print(error.code, error.message)
