# SPDX-License-Identifier: AGPL-3.0-or-later
"""An account that takes part in transactions: python examples/rdmp/participant.py ENDPOINT PKI JOURNAL."""

import asyncio
import sys
from pathlib import Path

from rdmp.endpoints import Endpoint
from rdmp.participant import Effect, Participant, Refused
from rdmp.rpc import RpcError
from rdmp.runner import ParticipantRunner
from rdmp.tls import TlsFiles


class Account(Participant):
    balance = 100

    async def restore(self, state, in_doubt):  # what was committed before this process began
        self.balance = state.get("account", {}).get("balance", self.balance)

    async def prepare(self, tx):  # a yes is a promise: check all that the commit needs
        if self.balance + tx.operation["prepare"]["add"] < 0:
            raise Refused(f"the balance is only {self.balance}")
        return Effect()

    async def commit(self, tx, stage):  # the new state is stored together with the answer, once
        self.balance += tx.operation["prepare"]["add"]
        return Effect(state={"account": {"balance": self.balance}})

    async def abort(self, tx): return Effect()  # fmt: skip
    async def status(self, tx_id): return {"balance": self.balance}  # fmt: skip
    async def observe(self): return {"revision": 0, "balance": self.balance}  # fmt: skip
    async def call(self, method, params, progress): raise RpcError("unknown_method", method)  # fmt: skip


endpoint, pki, journal = Endpoint.parse(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
files = TlsFiles(pki / "cert.pem", pki / "key.pem", pki / "ca.pem")
asyncio.run(ParticipantRunner(Account(), journal, files.identity(), [endpoint], files).run())
