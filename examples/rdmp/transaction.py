# SPDX-License-Identifier: AGPL-3.0-or-later
"""Move 30 from h1 to h2, both or neither: python examples/rdmp/transaction.py ENDPOINT PKI ID."""

import asyncio
import sys
from pathlib import Path

from rdmp.client import Client, Endpoint, TlsFiles
from rdmp.rpc import PeerAbsent, RpcTimeout


async def main(endpoint: Endpoint, pki: Path, tx: str) -> None:
    files = TlsFiles(pki / "cert.pem", pki / "key.pem", pki / "ca.pem")
    changes = {"h1": {"add": -30}, "h2": {"add": 30}}
    for _ in range(5):  # the caller chose the id, so it may ask again after any failure
        try:
            async with Client() as client:
                await client.connect(endpoint, files)
                done = await client.call("transfer", {"id": tx, "changes": changes}, timeout=10)
                print(done["id"], done["state"], done.get("reason", ""))
                return
        except (PeerAbsent, RpcTimeout) as error:
            print(f"no answer ({error}); asking again", file=sys.stderr)
            await asyncio.sleep(1)


asyncio.run(main(Endpoint.parse(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
