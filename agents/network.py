# SPDX-License-Identifier: AGPL-3.0-or-later
"""Make, check and mend the attachments of nodes with `ip`. The agent itself runs in the host's network namespace."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from agents import attachment as plan
from agents import vlan
from agents.attachment import Standing
from agents.facts import FACTS_BATCH, FACTS_BATCH6, Facts, HostNic, parse_facts, parse_host_nics
from agents.namespace import Namespace, in_thread
from agents.spec import Attachment

IP_TIMEOUT = 10.0  # seconds for one run of ip
# A macvlan keeps its MAC in use until the kernel has torn down its old namespace, which it does in the background.
BUSY_TRIES = 100
BUSY_PAUSE = 0.1  # seconds
_BUSY = "Address already in use"
CARRIER_TRIES = 10
CARRIER_PAUSE = 0.05  # seconds
_NO_CARRIER = ("Carrier for nexthop device is down", "Nexthop device is not up")  # net/ipv4/nexthop.c
_IPV6_CONF = Path("/proc/sys/net/ipv6/conf")  # of the namespace of the thread that looks


class NetworkError(Exception):
    """`ip` failed; the text says where and why."""


class Network:
    """The NICs of this host and what hangs on them; `alias` marks the VLAN interfaces that it makes."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._makes_vlans = False
        self.ipv6 = _IPV6_CONF.exists()

    async def host_nics(self) -> Mapping[str, HostNic]:
        """Return the host's interfaces by name. Raises NetworkError."""
        return parse_host_nics(await _ip(["-j", "-d", "-s", "-s", "link", "show"], None, None))

    async def reasons(self, attachment: Attachment, nics: Mapping[str, HostNic]) -> tuple[str, ...]:
        """Tell why a node cannot be attached here, in words for people. Raises NetworkError."""
        found = (*plan.nic_reasons(attachment, nics, ipv6=self.ipv6), *vlan.reasons(attachment, nics, self._alias))
        if found or self._makes_vlans or not vlan.needs_support(attachment, nics):
            return found
        try:
            await _run(["unshare", "--net", "ip", "-batch", "-"], vlan.PROBE, None)
        except _BatchError as error:
            return (vlan.NO_KERNEL_SUPPORT.format(why=error.why),)
        self._makes_vlans = True
        return ()

    async def make_vlans(self, attachment: Attachment, nics: Mapping[str, HostNic]) -> Mapping[str, HostNic]:
        """Bring the VLAN interfaces below a node into order; returns the interfaces of then. Raises NetworkError."""
        if not (lines := vlan.make_commands(attachment, nics, self._alias, ipv6=self.ipv6)):
            return nics
        await _ip(["-batch", "-"], _text(lines), None)
        return await self.host_nics()

    async def has_vlans(self) -> bool:
        """Tell whether a VLAN interface stands that this agent made. Raises NetworkError."""
        return bool(vlan.drop_commands(await self.host_nics(), frozenset(), self._alias))

    async def drop_vlans(self, needed: Set[str]) -> Sequence[str]:
        """Remove the VLAN interfaces of this agent that nobody needs; returns the commands. Raises NetworkError."""
        lines = vlan.drop_commands(await self.host_nics(), needed, self._alias)
        if lines:
            await _ip(["-batch", "-"], _text(lines), None)
        return lines

    async def attach(
        self, attachment: Attachment, standing: Standing, namespace: Namespace, nics: Mapping[str, HostNic]
    ) -> None:
        """Attach a node whose namespace is new. NICs whose parent is down are left for `mend`. Raises NetworkError."""
        if attachment.address6 is not None:
            await namespace.run(lambda: _write_sysctls(plan.sysctls(attachment)))
        lines = plan.address_commands(plan.addresses(attachment))
        await self._build(attachment, standing, namespace, nics, lines, plan.usable(attachment, nics))

    async def detach(self, namespace: Namespace) -> None:
        """Remove the NICs of a node that is going, so that its MAC is free at once. Raises NetworkError.

        Connections whose last words nobody acknowledges keep a namespace alive without any process, and with it its
        NICs, for as long as the kernel repeats them (tcp(7), tcp_orphan_retries).
        """
        there = [name for name in (await self._facts(namespace)).links if name.startswith(plan.DEVICE)]
        if there:
            await _ip(["-batch", "-"], _text([f"link del dev {name}" for name in there]), namespace)

    async def mend(
        self, attachment: Attachment, standing: Standing, namespace: Namespace, nics: Mapping[str, HostNic]
    ) -> tuple[str, ...]:
        """Bring the attachment into order, touching only what is wrong. Returns what was wrong. Raises NetworkError."""
        facts = await self._facts(namespace)
        wrong = plan.compare(attachment, standing, facts, nics)
        if wrong.sysctls:
            await namespace.run(lambda: _write_sysctls(wrong.sysctls))
        old = [plan.device(number) for number in wrong.links if plan.device(number) in facts.links]
        if old:
            await _ip(["-batch", "-"], _text([f"link del dev {name}" for name in old]), namespace)
        lines = plan.address_commands(wrong.addresses)
        await self._build(attachment, standing, namespace, nics, lines, tuple(wrong.links), tuple(wrong.settings))
        if wrong.stale:  # looked at again: some may have been replaced
            stale = plan.compare(attachment, standing, await self._facts(namespace), nics).stale
            await _ip(["-batch", "-"], _text(plan.delete_commands(attachment, standing, stale)), namespace)
        return wrong.told()

    async def _facts(self, namespace: Namespace) -> Facts:
        text = await _ip(["-j", "-d", "-batch", "-"], FACTS_BATCH, namespace)
        if not self.ipv6:
            return parse_facts(text)
        text6 = await _ip(["-6", "-j", "-batch", "-"], FACTS_BATCH6, namespace)
        return parse_facts(text, text6, await namespace.run(_read_sysctls))

    async def _build(
        self,
        attachment: Attachment,
        standing: Standing,
        namespace: Namespace,
        nics: Mapping[str, HostNic],
        addresses: Sequence[str],
        new: Sequence[int],
        old: Sequence[int] = (),
    ) -> None:
        """Run the lines for the addresses, make the `new` NICs and set up these and the `old` ones."""
        await _ip_when_free(plan.host_commands(attachment, new, namespace.path), namespace, inside=False)
        numbers = sorted([*new, *old])
        inside = [*addresses, *plan.node_commands(attachment, standing, numbers)]
        await _ip_when_free(inside, namespace, inside=True)
        for number in numbers:
            if nics[attachment.parent(number)].carrier:
                await _ip_with_carrier(plan.nexthop_commands(attachment, standing, number), namespace)


def _read_sysctls() -> dict[str, str]:
    """Read the settings of IPv6 in the namespace of this thread."""
    folders = [folder for folder in _IPV6_CONF.iterdir() if folder.name.startswith(plan.DEVICE)]
    paths = [folder / key for folder in (*folders, _IPV6_CONF / "default") for key in plan.IPV6_SETTINGS]
    paths.append(_IPV6_CONF / plan.IPV6_SWITCH)
    return {str(path.relative_to(_IPV6_CONF)): path.read_text(encoding="ascii").strip() for path in paths}


def _write_sysctls(values: Mapping[str, str]) -> None:
    """Set IPv6 in the namespace of this thread, in the order of `values`."""
    for key, value in values.items():
        (_IPV6_CONF / key).write_text(value, encoding="ascii")


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


async def _ip_when_free(lines: Sequence[str], namespace: Namespace, *, inside: bool) -> None:
    """Run the lines; where the kernel still holds what an old namespace had, wait for it and go on from that line."""
    left = list(lines)
    for attempt in range(1, BUSY_TRIES + 1):
        if not left:
            return
        try:
            await _ip(["-batch", "-"], _text(left), namespace, enter=inside)
        except _BatchError as error:
            if attempt == BUSY_TRIES or _BUSY not in str(error):
                raise
            left = left[error.line - 1 :]
            await asyncio.sleep(BUSY_PAUSE)
        else:
            return


async def _ip_with_carrier(lines: Sequence[str], namespace: Namespace) -> None:
    """Run the lines inside; a node's link has its carrier a moment after the host's NIC.

    Where the carrier has gone again, they are left for when it has returned.
    """
    for _ in range(CARRIER_TRIES):
        try:
            return await _ip_when_free(lines, namespace, inside=True)
        except _BatchError as error:
            if not any(text in error.why for text in _NO_CARRIER):
                raise
            await asyncio.sleep(CARRIER_PAUSE)


class _BatchError(NetworkError):
    """`line` of the batch failed; `why` is what the kernel said."""

    def __init__(self, message: str, line: int, why: str) -> None:
        super().__init__(message)
        self.line = line
        self.why = why


async def _ip(arguments: list[str], batch: str | None, namespace: Namespace | None, *, enter: bool = True) -> str:
    """Run `ip`; inside `namespace` if `enter`, else here with the namespace's descriptor open for it."""
    return await _run(["ip", *arguments], batch, namespace, enter=enter)


async def _run(command: list[str], batch: str | None, namespace: Namespace | None, *, enter: bool = True) -> str:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
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
        raise NetworkError(f"the program {command[0]} is missing; install iproute2 and util-linux") from error
    except OSError as error:  # no memory, no process, no descriptor at the moment
        raise NetworkError(f"the program {command[0]} cannot be started: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise NetworkError(f"{' '.join(command)} did not end within {IP_TIMEOUT:g} s") from error
    if done.returncode != 0:
        line = _failed_line(done.stderr)
        why = "; ".join(text for text in done.stderr.splitlines() if not text.startswith("Command failed"))
        raise _BatchError(f"{_failed(command, batch, line)}: {why or 'failed without a reason'}", line, why)
    return done.stdout


def _failed(command: Sequence[str], batch: str | None, line: int) -> str:
    lines = (batch or "").splitlines()
    return f"ip {lines[line - 1]}" if batch and 0 < line <= len(lines) else " ".join(command)


def _failed_line(stderr: str) -> int:
    """Return the number of the batch line that failed (`Command failed -:3`), 1 where it is not told."""
    for text in stderr.splitlines():
        if text.startswith("Command failed"):
            return int(text.rpartition(":")[2])
    return 1
