# SPDX-License-Identifier: AGPL-3.0-or-later
"""Make, check and mend the attachments of nodes with `ip`. The agent itself runs in the host's network namespace."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence

from agents import attachment as plan
from agents.attachment import HostNic
from agents.namespace import Namespace, in_thread
from agents.spec import Attachment

IP_TIMEOUT = 10.0  # seconds for one run of ip
# A macvlan keeps its MAC in use until the kernel has torn down its old namespace, which it does in the background.
BUSY_TRIES = 100
BUSY_PAUSE = 0.1  # seconds
_BUSY = "Address already in use"


class NetworkError(Exception):
    """`ip` failed; the text says where and why."""


class Network:
    """The NICs of this host and what hangs on them."""

    async def host_nics(self) -> Mapping[str, HostNic]:
        """Return the host's NICs by name. Raises NetworkError."""
        return plan.parse_host_nics(await _ip(["-j", "link", "show"], None, None))

    async def attach(self, attachment: Attachment, namespace: Namespace, nics: Mapping[str, HostNic]) -> None:
        """Attach a node whose namespace is new. NICs whose parent is down are left for `mend`. Raises NetworkError."""
        await self._build(attachment, namespace, plan.usable(attachment, nics))

    async def detach(self, namespace: Namespace) -> None:
        """Remove the NICs of a node that is going, so that its MAC is free at once. Raises NetworkError.

        Connections whose last words nobody acknowledges keep a namespace alive without any process, and with it its
        NICs, for as long as the kernel repeats them (tcp(7), tcp_orphan_retries).
        """
        facts = plan.parse_facts(await _ip(["-j", "-d", "-batch", "-"], plan.FACTS_BATCH, namespace))
        there = [name for name in facts.links if name.startswith(plan.DEVICE)]
        if there:
            await _ip(["-batch", "-"], "".join(f"link del dev {name}\n" for name in there), namespace)

    async def mend(self, attachment: Attachment, namespace: Namespace, nics: Mapping[str, HostNic]) -> tuple[str, ...]:
        """Bring the attachment into order, touching only what is wrong. Returns what was wrong. Raises NetworkError."""
        facts = plan.parse_facts(await _ip(["-j", "-d", "-batch", "-"], plan.FACTS_BATCH, namespace))
        wrong = plan.compare(attachment, facts, nics)
        if not wrong:
            return ()
        old = [plan.device(number) for number in wrong.links if plan.device(number) in facts.links]
        if old:
            await _ip(["-batch", "-"], "".join(f"link del dev {name}\n" for name in old), namespace)
        await self._build(attachment, namespace, tuple(wrong.links), tuple(wrong.settings))
        return wrong.told()

    async def _build(
        self, attachment: Attachment, namespace: Namespace, new: Sequence[int], standing: Sequence[int] = ()
    ) -> None:
        """Make the `new` NICs and set up these and the `standing` ones."""
        lines = plan.host_commands(attachment, new, namespace.path)
        await _ip_when_free(lines, namespace, inside=False)
        inside = [plan.address_command(attachment), *plan.node_commands(attachment, sorted([*new, *standing]))]
        await _ip_when_free(inside, namespace, inside=True)


async def _ip_when_free(lines: Sequence[str], namespace: Namespace, *, inside: bool) -> None:
    """Run the lines; where the kernel still holds what an old namespace had, wait for it and go on from that line."""
    left = list(lines)
    for attempt in range(1, BUSY_TRIES + 1):
        if not left:
            return
        try:
            await _ip(["-batch", "-"], "\n".join(left) + "\n", namespace, enter=inside)
        except _BatchError as error:
            if attempt == BUSY_TRIES or _BUSY not in str(error):
                raise
            left = left[error.line - 1 :]
            await asyncio.sleep(BUSY_PAUSE)
        else:
            return


class _BatchError(NetworkError):
    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


async def _ip(arguments: list[str], batch: str | None, namespace: Namespace | None, *, enter: bool = True) -> str:
    """Run `ip`; inside `namespace` if `enter`, else here with the namespace's descriptor open for it."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", *arguments],
            input=batch,
            capture_output=True,
            text=True,
            timeout=IP_TIMEOUT,
            check=False,
            pass_fds=() if namespace is None else (namespace.descriptor,),
        )

    try:
        if namespace is not None and enter:
            done = await namespace.run(run)
        else:
            done = await in_thread(run)
    except FileNotFoundError as error:
        raise NetworkError("the program ip is missing; install iproute2") from error
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"ip {' '.join(arguments)} did not end within {IP_TIMEOUT:g} s") from error
    if done.returncode != 0:
        raise _BatchError(_explain(arguments, batch, done.stderr), _failed_line(done.stderr))
    return done.stdout


def _explain(arguments: Sequence[str], batch: str | None, stderr: str) -> str:
    line = _failed_line(stderr)
    lines = (batch or "").splitlines()
    command = lines[line - 1] if batch and 0 < line <= len(lines) else " ".join(arguments)
    why = "; ".join(text for text in stderr.splitlines() if not text.startswith("Command failed"))
    return f"ip {command}: {why or 'failed without a reason'}"


def _failed_line(stderr: str) -> int:
    """Return the number of the batch line that failed (`Command failed -:3`), 1 where it is not told."""
    for text in stderr.splitlines():
        if text.startswith("Command failed"):
            return int(text.rpartition(":")[2])
    return 1
