# SPDX-License-Identifier: AGPL-3.0-or-later
"""Many calls on one connection: python examples/rdmp/rpc_async.py ENDPOINT PKI."""

import asyncio
import sys
from pathlib import Path

from rdmp.client import Client, Endpoint, RpcError, TlsFiles


async def main(endpoint: Endpoint, pki: Path) -> None:
    async with Client() as client:
        await client.connect(endpoint, TlsFiles(pki / "cert.pem", pki / "key.pem", pki / "ca.pem"))
        answers = await asyncio.gather(*(client.call("whoami", timeout=5) for _ in range(10)))
        print(len(answers), answers[0]["identity"])
        try:
            await client.call("nothing")
        except RpcError as error:
            print(error.code, error.message)


asyncio.run(main(Endpoint.parse(sys.argv[1]), Path(sys.argv[2])))
