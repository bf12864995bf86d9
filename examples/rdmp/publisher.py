# SPDX-License-Identifier: AGPL-3.0-or-later
"""Publish scaling events, each at least once: python examples/rdmp/publisher.py ENDPOINT PKI COUNT."""

import asyncio
import sys
from pathlib import Path

from rdmp.endpoints import Endpoint
from rdmp.pubsub import Publisher
from rdmp.tls import TlsFiles


async def main(endpoint: Endpoint, pki: Path, count: int) -> None:
    async with Publisher(endpoint, TlsFiles(pki / "cert.pem", pki / "key.pem", pki / "ca.pem")) as publisher:
        for number in range(count):
            print(await publisher.publish("scaling.load", {"network": "shop/app", "percent": number}))


asyncio.run(main(Endpoint.parse(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
