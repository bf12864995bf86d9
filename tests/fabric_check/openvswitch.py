# SPDX-License-Identifier: AGPL-3.0-or-later
"""Asks Open vSwitch itself what it would do with a packet: ``ofproto/trace`` on bridges of a dummy datapath.

No root, no namespace and no packet is needed.  Links between bridges are followed here: what a trace sends out of a
trunk is traced again at its other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controller import texts
from controller.fabric import Port, format_mac, parse_mac
from controller.flows import ETH_ARP, VLAN_PRESENT, FlowEntry, TableSet
from tests.fabric_check.cases import (
    BORDER_PORT,
    HOST_PORT,
    MOST_BORDERS,
    MOST_HOSTS,
    MOST_SWITCHES,
    TRUNK_PORT,
)
from tests.fabric_check.oracle import Packet
from tests.fabric_check.packets import UNKNOWN_PORT
from tests.fabric_check.verdicts import Outcome

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
SECONDS_TO_ANSWER = 20.0
MOST_HOPS = 2 * MOST_SWITCHES


class OpenVSwitchError(Exception):
    """Open vSwitch refused a command, or said what nobody here understands."""


class OpenVSwitch:
    """A running ovs-vswitchd with a bridge for each switch of a case, and every port that a case may use."""

    def __init__(self, switches: int = MOST_SWITCHES) -> None:
        self._names = [f"sw{number}" for number in range(1, switches + 1)]
        self._directory = tempfile.TemporaryDirectory(prefix="fabric-check-")
        self._control: socket.socket | None = None
        self._answers = b""
        self._ports: dict[int, Port] = {}
        self._down: frozenset[Port] = frozenset()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def _path(self) -> Path:
        return Path(self._directory.name)

    def _start(self) -> None:
        self._run("ovsdb-tool", "create", f"{self._path}/conf.db", str(SCHEMA))
        self._daemon("ovsdb-server", f"{self._path}/conf.db", f"--remote=punix:{self._path}/db.sock")
        self._vsctl("--no-wait", "init")
        self._daemon("ovs-vswitchd", f"unix:{self._path}/db.sock", "--enable-dummy", "--disable-system")
        numbers = [HOST_PORT + number for number in range(1, MOST_HOSTS + 1)]
        numbers += [TRUNK_PORT + number for number in range(1, MOST_SWITCHES + 1)]
        numbers += [BORDER_PORT + number for number in range(1, MOST_BORDERS + 1)]
        for name in self._names:
            command = ["add-br", name, "--", "set", "bridge", name, "datapath_type=dummy", "fail_mode=secure"]
            command += ["protocols=OpenFlow13"]
            for number in [*numbers, UNKNOWN_PORT]:
                port = f"{name}-{number}"
                command += ["--", "add-port", name, port, "--", "set", "interface", port, "type=dummy"]
                command += [f"ofport_request={number}"]
            self._vsctl(*command)
        self._control = socket.socket(socket.AF_UNIX)
        self._control.settimeout(SECONDS_TO_ANSWER)
        self._control.connect(f"{self._path}/ovs-vswitchd.ctl")
        for name, number, odp in re.findall(r"^\s+(sw\d+)-\d+ (\d+)/(\d+):", self._ask("dpif/show"), re.MULTILINE):
            self._ports[int(odp)] = Port(name, int(number))

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        for daemon in ("ovs-vswitchd", "ovsdb-server"):
            with contextlib.suppress(OSError, ValueError):
                pid = int((self._path / f"{daemon}.pid").read_text())
                os.kill(pid, signal.SIGTERM)
                self._wait(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"{daemon} to end")
        self._directory.cleanup()

    def _daemon(self, daemon: str, *arguments: str) -> None:
        command = [daemon, *arguments, "-vconsole:off", f"--unixctl={self._path}/{daemon}.ctl", "--no-chdir"]
        command += [f"--log-file={self._path}/{daemon}.log", f"--pidfile={self._path}/{daemon}.pid", "--detach"]
        self._run(*command)

    def _run(self, *command: str) -> str:
        places = {"OVS_RUNDIR": str(self._path), "OVS_LOGDIR": str(self._path)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | places)
        if done.returncode:
            raise OpenVSwitchError(f"{' '.join(command[:4])}: {done.stderr or done.stdout}")
        return done.stdout

    def _vsctl(self, *arguments: str) -> None:
        self._run("ovs-vsctl", f"--db=unix:{self._path}/db.sock", "--timeout=20", *arguments)

    def _ofctl(self, switch: str, command: str, *arguments: str) -> str:
        return self._run("ovs-ofctl", "-O", "OpenFlow13", command, f"unix:{self._path}/{switch}.mgmt", *arguments)

    def _ask(self, method: str, *params: str) -> str:
        """Call the daemon over its control socket: JSON-RPC 1.0 (RFC 7047, 4)."""
        assert self._control is not None
        self._control.sendall(json.dumps({"id": 0, "method": method, "params": params}).encode())
        decoder = json.JSONDecoder()
        while True:
            with contextlib.suppress(ValueError):
                answer, end = decoder.raw_decode(self._answers.decode())
                self._answers = self._answers[end:].lstrip()
                break
            received = self._control.recv(1 << 20)
            if not received:
                raise OpenVSwitchError(f"{method}: ovs-vswitchd closed the connection; see its log")
            self._answers += received
        if answer["error"] is not None:
            raise OpenVSwitchError(f"{method} {' '.join(params)}: {answer['error']}")
        return str(answer["result"] or "")

    @staticmethod
    def _wait(condition: Any, what: str) -> None:
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while not condition():
            if time.monotonic() > deadline:
                raise OpenVSwitchError(f"waited {SECONDS_TO_ANSWER} s for {what}")
            time.sleep(0.002)

    # Tables and ports

    def load(self, tables: Mapping[str, TableSet]) -> None:
        """Give each bridge its meters, groups and entries, and nothing else."""
        for switch, wanted in tables.items():
            self._ofctl(switch, "del-flows")
            self._ofctl(switch, "del-meters")
            for meter in wanted.meters.values():
                self._ofctl(switch, "add-meter", texts.meter_text(meter))
            lines = ["group delete"]
            lines += [f"group add {texts.group_text(group)}" for group in wanted.groups.values()]
            lines += [f"flow add {texts.entry_text(entry)}" for entry in wanted]
            file = self._path / f"{switch}.bundle"
            file.write_text("\n".join(lines) + "\n")
            self._ofctl(switch, "bundle", str(file))

    def add(self, switch: str, entry: FlowEntry) -> None:
        """Add one entry; what was learned stays."""
        self._ofctl(switch, "add-flow", texts.entry_text(entry))

    def set_down(self, down: frozenset[Port]) -> None:
        """Take the carrier from these ports, and give it to all others."""
        for port in sorted(down ^ self._down):
            self._ask("netdev-dummy/set-admin-state", f"{port.switch}-{port.number}", "down" if port in down else "up")
        for switch in sorted({port.switch for port in down ^ self._down}):
            self._wait(lambda switch=switch: self._is_settled(switch, down), f"the ports of {switch}")
        self._down = down

    def _is_settled(self, switch: str, down: frozenset[Port]) -> bool:
        found = re.findall(r"^ (\d+)\(.*\n.*\n +state: +(\S+)", self._ofctl(switch, "dump-ports-desc"), re.MULTILINE)
        return {int(number) for number, state in found if state != "LIVE"} == {
            port.number for port in down if port.switch == switch
        }

    # Packets

    def outcome(self, packet: Packet, at: Port, links: Mapping[Port, Port], *, learn: bool = False) -> Outcome:
        """Follow a packet through all bridges.  With ``learn``, learned entries stay."""
        sent: list[tuple[Port, Packet]] = []
        story: list[str] = []
        punts, hops = 0, 0
        queue = [(at, dict(packet))]
        while queue:
            port, frame = queue.pop(0)
            hops += 1
            if hops > MOST_HOPS:
                raise OpenVSwitchError(f"a packet makes a loop: {' '.join(story)}")
            if port in self._down:
                continue
            text = self.trace(port, frame, learn=learn)
            story.append(text)
            for out, left in self._outputs(text, frame):
                if out is None:
                    punts += 1
                elif out in links:
                    queue.append((links[out], left))
                else:
                    sent.append((out, left))
        matched = re.findall(r"^ *(\d+)\. .*priority (\d+)", story[-1] if story else "", re.MULTILINE)
        last = (int(matched[-1][0]), int(matched[-1][1])) if matched else None
        return Outcome(tuple(sent), punts, last, tuple(story))

    def trace(self, at: Port, packet: Packet, *, learn: bool = False) -> str:
        """Return what ``ofproto/trace`` says."""
        flow = flow_text(packet, at.number)
        return self._ask("ofproto/trace", at.switch, flow, *(["-generate"] if learn else []))

    def _outputs(self, trace: str, packet: dict[str, int]) -> Iterator[tuple[Port | None, dict[str, int]]]:
        """Yield each port (None: the controller) with the packet as it leaves there."""
        found = re.search(r"^Datapath actions: (.*)$", trace, re.MULTILINE)
        if found is None:
            raise OpenVSwitchError(f"a trace without datapath actions: {trace}")
        frame = dict(packet)
        for action in _split(found[1]):
            name, _, inner = action.partition("(")
            if action.isdigit():
                yield self._ports[int(action)], dict(frame)
            elif name == "userspace" and "controller(" in inner:
                yield None, dict(frame)
            elif name == "set":
                _set(frame, inner[:-1])
            elif name == "push_vlan":
                frame["vlan_vid"] = VLAN_PRESENT | int(_values(inner[:-1])["vid"])
            elif name == "pop_vlan":
                frame["vlan_vid"] = 0
            elif name not in ("drop", "meter"):
                raise OpenVSwitchError(f"a datapath action that nobody here knows: {action}")


def _split(text: str) -> Iterator[str]:
    """Split at the commas that are in no parentheses."""
    depth, start = 0, 0
    for position, character in enumerate(f"{text},"):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield text[start:position]
            start = position + 1


def _values(text: str) -> Mapping[str, str]:
    return dict(word.split("=", 1) for word in _split(text))


_SETS: Mapping[tuple[str, str], str] = {
    ("eth", "src"): "eth_src",
    ("eth", "dst"): "eth_dst",
    ("arp", "sip"): "arp_spa",
    ("arp", "tip"): "arp_tpa",
    ("arp", "op"): "arp_op",
    ("arp", "sha"): "arp_sha",
    ("arp", "tha"): "arp_tha",
    ("ipv6", "src"): "ipv6_src",
    ("ipv6", "dst"): "ipv6_dst",
    ("icmpv6", "type"): "icmpv6_type",
    ("icmpv6", "code"): "icmpv6_code",
    ("nd", "tll"): "nd_tll",
    ("nd", "target"): "nd_target",
    ("nd_ext", "nd_reserved"): "nd_reserved",
    ("nd_ext", "nd_options_type"): "nd_options_type",
}


def _set(frame: dict[str, int], text: str) -> None:
    header, _, inner = text.partition("(")
    for name, value in _values(inner[:-1]).items():
        if (header, name) not in _SETS:
            raise OpenVSwitchError(f"a field that nobody here sets: {header}({name}={value})")
        frame[_SETS[header, name]] = _number(value)


def _number(text: str) -> int:
    if re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", text):
        return parse_mac(text)
    if "." in text:
        return int(IPv4Address(text))
    if ":" in text:
        return int(IPv6Address(text))
    return int(text, 0)


def flow_text(packet: Packet, in_port: int) -> str:
    """Return a packet as ``ofproto/trace`` takes it: exact in every field."""
    vid = packet["vlan_vid"]
    words = [f"in_port={in_port}", f"vlan_tci={vid:#06x}", f"dl_type={packet['eth_type']:#06x}"]
    words += [f"dl_src={format_mac(packet['eth_src'])}", f"dl_dst={format_mac(packet['eth_dst'])}"]
    for name, word in (("ipv4_src", "nw_src"), ("ipv4_dst", "nw_dst"), ("arp_spa", "arp_spa"), ("arp_tpa", "arp_tpa")):
        words += [f"{word}={IPv4Address(packet[name])}"] if name in packet else []
    for name in ("ipv6_src", "ipv6_dst"):
        words += [f"{name}={IPv6Address(packet[name])}"] if name in packet else []
    for name in ("arp_sha", "arp_tha"):
        words += [f"{name}={format_mac(packet[name])}"] if name in packet else []
    words += [f"arp_op={packet['arp_op']}"] if packet["eth_type"] == ETH_ARP else []
    return ",".join([*words, *_transport(packet)])


def _transport(packet: Packet) -> Sequence[str]:
    if "ip_proto" not in packet:
        return []
    fragment = {0: "no", 1: "first", 3: "later"}[packet["ip_frag"]]
    words = [f"nw_proto={packet['ip_proto']}", f"nw_frag={fragment}", "nw_ttl=255"]
    words += [f"{name}={packet[name]}" for name in ("tcp_src", "tcp_dst", "udp_src", "udp_dst") if name in packet]
    named = {"icmpv4_type": "icmp_type", "icmpv6_type": "icmpv6_type", "icmpv6_code": "icmpv6_code"}
    words += [f"{word}={packet[name]}" for name, word in named.items() if name in packet]
    words += [f"tcp_flags={packet['tcp_flags']:#05x}"] if "tcp_flags" in packet else []
    if packet.get("icmpv6_type") in (135, 136):
        words += [f"nd_target={IPv6Address(packet['nd_target'])}"]
    return words


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether Open vSwitch can be started here, and why not."""

    missing: str | None

    @classmethod
    def here(cls) -> Availability:
        """Look for the programs and the schema."""
        paths = [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"]
        for program in ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl"):
            if not any((Path(path) / program).exists() for path in paths):
                return cls(f"{program} is not installed")
        return cls(None if SCHEMA.exists() else f"{SCHEMA} does not exist")
