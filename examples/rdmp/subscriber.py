# SPDX-License-Identifier: AGPL-3.0-or-later
"""Print scaling events and go on where it stopped: python examples/rdmp/subscriber.py ENDPOINT PKI PLACE COUNT."""

import asyncio
import sys
from pathlib import Path

from rdmp.endpoints import Endpoint
from rdmp.pubsub import Subscriber
from rdmp.tls import TlsFiles


async def main(endpoint: Endpoint, pki: Path, place: Path, count: int) -> None:
    files = TlsFiles(pki / "cert.pem", pki / "key.pem", pki / "ca.pem")
    start = int(place.read_text()) if place.exists() else 1
    async with Subscriber(endpoint, ["scaling.*"], files, from_index=start, on_lost=print) as events:
        for _ in range(count):
            event = await anext(events)
            print(event.index, event.topic, event.data["percent"], flush=True)
            place.write_text(str(events.next_index))  # after the work: at least once


asyncio.run(main(Endpoint.parse(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])))
