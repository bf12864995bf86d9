# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two real Open vSwitch switches, three hosts and a border, without Docker, for the tests of the controller.

Everything has the prefix ``ctl<process>-``, so that two runs do not meet.  A host is a network namespace with a cable
to each switch; a node is one with two VEPA macvlans on the NICs of its host, as the agent makes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rdmp.tls import TlsFiles
from tests.unit.controller import samples

PREFIX = f"ctl{os.getpid()}-"
SUBNET = f"198.18.{os.getpid() % 256}"  # RFC 2544: for tests
HOSTS = ("h1", "h2", "h3")
SWITCHES = ("sw1", "sw2")
OVS_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
FIRST_INDEX = 1 << 24  # of interfaces; the kernel counts from 1
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str, check: bool = True) -> str:
    """Run a command; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def inside(netns: str, *command: str, check: bool = True) -> str:
    """Run a command in one of our namespaces."""
    return run("nsenter", f"--net=/run/netns/{PREFIX}{netns}", *command, check=check)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """Poll until the condition is true; returns its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return value


_T = TypeVar("_T")


def in_namespace(path: str, act: Callable[[], _T]) -> _T:
    """Run a function in the namespace of a file; what sockets it makes stay there.  Raises OSError."""
    done: list[_T] = []
    failed: list[OSError] = []

    def enter() -> None:
        try:
            with open(path, "rb") as file:
                if _libc.setns(file.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns to {path}")
            done.append(act())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def within(netns: str, act: Callable[[], _T]) -> _T:
    """Run a function in one of our namespaces; raises OSError."""
    return in_namespace(f"/run/netns/{PREFIX}{netns}", act)


def socket_in(
    netns: str, kind: socket.SocketKind = socket.SOCK_STREAM, family: socket.AddressFamily = socket.AF_INET
) -> socket.socket:
    """Make a socket in one of our namespaces."""
    return within(netns, lambda: socket.socket(family, kind))


def socket_at(path: str, kind: socket.SocketKind) -> socket.socket:
    """Make a socket in the namespace of a file."""
    return in_namespace(path, lambda: socket.socket(socket.AF_INET, kind))


@dataclass(frozen=True)
class Pki:
    """A CA and the certificates that it issued, as files."""

    directory: Path
    cluster: str = "lab"
    _keys: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA {self.directory.name}")])
        certificate = self._builder(name, name, key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._keys.update(key=key, name=name)
        (self.directory / "ca.pem").write_bytes(
            certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )

    @staticmethod
    def _builder(subject: x509.Name, issuer: x509.Name, key: Any) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(days=1))
        )

    def issue(self, role: str, name: str) -> TlsFiles:
        """Return certificate, key and CA for ``odyssey://<cluster>/<role>/<name>``."""
        base = self.directory / f"{role}-{name}"
        files = TlsFiles(base.with_suffix(".crt"), base.with_suffix(".key"), self.directory / "ca.pem")
        if files.cert.exists():
            return files
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        uri = x509.UniformResourceIdentifier(f"odyssey://{self.cluster}/{role}/{name}")
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            self._builder(subject, self._keys["name"], key.public_key())
            .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
            .add_extension(usages, critical=False)
            .sign(self._keys["key"], hashes.SHA256())
        )
        files.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key.touch(mode=0o600)
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


@dataclass
class OpenVSwitch:
    """One switch: its own namespace, ovsdb-server and ovs-vswitchd."""

    name: str
    number: int
    directory: Path

    @property
    def netns(self) -> str:
        return self.name

    @property
    def controller_address(self) -> str:
        """The address under which this switch reaches the test process."""
        return f"{SUBNET}.{4 * self.number + 1}"

    def start(self) -> None:
        """Start the daemons and make the bridge, without ports and without a controller."""
        self.directory.mkdir(parents=True)
        run("ip", "netns", "add", f"{PREFIX}{self.name}")
        inside(self.name, "ip", "link", "set", "lo", "up")
        outer = f"ctl{os.getpid()}m{self.number}"
        # That of the fixture before stands until the kernel has taken its peer's namespace down.
        run("ip", "link", "del", outer, check=False)
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", "mgmt0", "netns", f"{PREFIX}{self.name}")
        run("ip", "addr", "add", f"{self.controller_address}/30", "dev", outer)
        run("ip", "link", "set", outer, "up")
        inside(self.name, "ip", "addr", "add", f"{SUBNET}.{4 * self.number + 2}/30", "dev", "mgmt0")
        inside(self.name, "ip", "link", "set", "mgmt0", "up")
        run("ovsdb-tool", "create", f"{self.directory}/conf.db", OVS_SCHEMA)
        self._daemon("ovsdb-server", f"{self.directory}/conf.db", f"--remote=punix:{self.directory}/db.sock")
        threads = ("other_config:n-handler-threads=1", "other_config:n-revalidator-threads=1")
        self.vsctl("--no-wait", "init", "--", "set", "open_vswitch", ".", *threads)
        self.start_vswitchd()
        self.vsctl(
            *("add-br", self.name, "--", "set", "bridge", self.name, "datapath_type=netdev", "protocols=OpenFlow13"),
            *("fail_mode=secure", f"other-config:datapath-id={self.number:016x}"),
            "other-config:disable-in-band=true",
        )

    def start_vswitchd(self) -> None:
        """Start ovs-vswitchd; a switch that was started again is empty."""
        self._daemon("ovs-vswitchd", f"unix:{self.directory}/db.sock")

    def _daemon(self, daemon: str, *arguments: str) -> None:
        environment = {"OVS_RUNDIR": str(self.directory), "OVS_LOGDIR": str(self.directory)}
        command = ["nsenter", f"--net=/run/netns/{PREFIX}{self.name}", daemon, *arguments, "-vconsole:off"]
        command += [f"--unixctl={self.directory}/{daemon}.ctl", f"--log-file={self.directory}/{daemon}.log"]
        command += [f"--pidfile={self.directory}/{daemon}.pid", "--detach", "--no-chdir"]
        subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, timeout=30)

    def pid(self, daemon: str) -> int:
        return int((self.directory / f"{daemon}.pid").read_text())

    def stop(self) -> None:
        """End the daemons that this object started."""
        for daemon in ("ovs-vswitchd", "ovsdb-server"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(self.pid(daemon), signal.SIGTERM)

    def remove(self) -> None:
        """Take the namespace away, with whatever still runs in it."""
        for pid in run("ip", "netns", "pids", f"{PREFIX}{self.name}", check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        run("ip", "netns", "del", f"{PREFIX}{self.name}", check=False)

    def add_port(self, interface: str, number: int) -> None:
        self.vsctl("add-port", self.name, interface, "--", "set", "interface", interface, f"ofport_request={number}")

    def set_controller(self, files: TlsFiles, *ports: int) -> None:
        """Point the switch to controllers of this machine."""
        targets = [f"ssl:{self.controller_address}:{port}" for port in ports]
        self.vsctl("set-ssl", str(files.key), str(files.cert), str(files.ca))
        self.vsctl("set-controller", self.name, *targets)
        for identity in self.vsctl("--bare", "--columns=_uuid", "list", "controller").split():
            self.vsctl("set", "controller", identity, "inactivity_probe=5000", "max_backoff=1000")

    def roles(self) -> dict[int, str]:
        """Return what each connected controller is to the switch, by its port: master, slave or other (EQUAL)."""
        lines = self.vsctl("-f", "csv", "--no-heading", "--columns=target,role,is_connected", "list", "controller")
        rows = (line.split(",") for line in lines.replace('"', "").splitlines())
        return {int(target.rpartition(":")[2]): role for target, role, there in rows if there == "true"}

    def vsctl(self, *arguments: str) -> str:
        return run("ovs-vsctl", f"--db=unix:{self.directory}/db.sock", "--timeout=10", *arguments)

    def ofctl(self, command: str, *arguments: str) -> str:
        socket_path = f"unix:{self.directory}/{self.name}.mgmt"
        return run("ovs-ofctl", "-O", "OpenFlow13", command, socket_path, *arguments)

    def trace(self, flow: str) -> str:
        """Run ofproto/trace."""
        control = f"{self.directory}/ovs-vswitchd.ctl"
        return run("ovs-appctl", "-t", control, "ofproto/trace", self.name, flow)

    def flows(self) -> list[str]:
        """Return the entries without counters, sorted."""
        lines = self.ofctl("dump-flows", "--no-stats").splitlines()
        return sorted(line.strip() for line in lines if "actions=" in line)

    def connected(self) -> bool:
        return "true" in self.vsctl("--no-heading", "--columns=is_connected", "list", "controller")


@dataclass
class Lab:
    """Two switches, three hosts, a border."""

    directory: Path
    switches: dict[str, OpenVSwitch] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)

    def up(self) -> None:
        self.down()
        for number, name in enumerate(SWITCHES, start=1):
            self.switches[name] = OpenVSwitch(name, number, self.directory / name)
            self.switches[name].start()
        for number, host in enumerate(HOSTS, start=1):
            run("ip", "netns", "add", f"{PREFIX}{host}")
            for nic, switch in (("eth0", "sw1"), ("eth1", "sw2")):
                self._cable(host, nic, f"02:aa:00:00:0{number}:0{switch[-1]}", switch, f"p-{host}", number)
        self._cable("sw1", "trunk", "", "sw2", "trunk", 101)
        self.switches["sw1"].add_port("trunk", 101)
        run("ip", "netns", "add", f"{PREFIX}edge")
        self._cable("edge", "edge0", samples.EDGE_MAC, "sw1", "p-edge", 201)
        inside("edge", "ip", "addr", "add", f"{samples.EDGE_CLIENT}/24", "dev", "edge0")
        inside("edge", "ip", "route", "add", "default", "via", "203.0.113.1")

    def _cable(self, netns: str, interface: str, mac: str, switch: str, port: str, number: int) -> None:
        address = ["address", mac] if mac else []
        # Equal indices at both ends would let the kernel tell of a lost carrier up to a second late.
        index = str(FIRST_INDEX + len(self.switches) * 1000 + number * 10 + int(switch[-1]))
        run(
            *("ip", "link", "add", "name", interface, "index", index, "netns", f"{PREFIX}{netns}", *address),
            *("type", "veth"),
            *("peer", "name", port, "netns", f"{PREFIX}{switch}"),
        )
        for where, name in ((netns, interface), (switch, port)):
            inside(where, "ethtool", "-K", name, "tx", "off")
            inside(where, "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1", check=False)
            inside(where, "ip", "link", "set", name, "up")
        self.switches[switch].add_port(port, number)

    def down(self) -> None:
        for switch in self.switches.values():
            switch.stop()
        for name in run("ip", "netns", "list").split():
            owner = re.match(r"ctl(\d+)-", name)
            # Also what a run left that was killed: its process is gone.
            if owner and (int(owner[1]) == os.getpid() or not Path(f"/proc/{owner[1]}").exists()):
                for pid in run("ip", "netns", "pids", name).split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                run("ip", "netns", "del", name, check=False)

    def add_node(self, node: str, host: str, address: str) -> None:
        """Attach a node as the agent does: two VEPA macvlans with one MAC, a /32 on lo, two routes."""
        run("ip", "netns", "add", f"{PREFIX}{node}")
        inside(node, "ip", "link", "set", "lo", "up")
        inside(node, "ip", "addr", "add", f"{address}/32", "dev", "lo")
        for number in (0, 1):
            name = f"fab{number}"
            inside(
                host,
                *("ip", "link", "add", "link", f"eth{number}", "name", f"t{number}", "address"),
                *(samples.mac_of(address), "type", "macvlan", "mode", "vepa"),
            )
            inside(host, "ip", "link", "set", f"t{number}", "netns", f"{PREFIX}{node}", "name", name)
            base = f"net.ipv4.conf.{name}"
            inside(node, "sysctl", "-qw", f"{base}.rp_filter=0", f"{base}.ignore_routes_with_linkdown=1")
            inside(node, "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1", check=False)
            inside(node, "ip", "link", "set", name, "arp", "off", "up")
            neighbour = ("169.254.1.1", "lladdr", samples.FABRIC_MAC, "dev", name, "nud", "permanent")
            inside(node, "ip", "neigh", "replace", *neighbour)
            route = ("default", "via", "169.254.1.1", "dev", name, "onlink", "src", address)
            inside(node, "ip", "route", "add", *route, "metric", str(10 + number))
        inside(node, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
        self.nodes.add(node)

    def add_address6(self, node: str, address: str) -> None:
        """Give a node an IPv6 address as the agent does: a /128 on lo, two routes, nothing that asks or listens."""
        settings = ["accept_ra=0", "autoconf=0", "accept_dad=0", "dad_transmits=0", "router_solicitations=0"]
        settings += ["addr_gen_mode=1", "ignore_routes_with_linkdown=1", "disable_ipv6=0"]
        inside(node, "ip", "addr", "add", f"{address}/128", "dev", "lo", "nodad")
        for number in (0, 1):
            name = f"fab{number}"
            inside(node, "sysctl", "-qw", *(f"net.ipv6.conf.{name}.{setting}" for setting in settings))
            inside(
                *(node, "ip", "neigh", "replace", "fe80::1", "lladdr", samples.FABRIC_MAC),
                *("dev", name, "nud", "permanent"),
            )
            route = ("default", "via", "fe80::1", "dev", name, "onlink", "src", address)
            inside(node, "ip", "-6", "route", "add", *route, "metric", str(10 + number))

    def add_service_address(self, node: str, address: str) -> None:
        """Make a node a member of a service: the address on lo, for which nothing answers ARP or ND."""
        length, options = (128, ("nodad",)) if ":" in address else (32, ())
        inside(node, "ip", "addr", "replace", f"{address}/{length}", "dev", "lo", *options)

    def forget(self) -> None:
        """Empty every switch and take its controller away."""
        for switch in self.switches.values():
            switch.vsctl("del-controller", switch.name)
            switch.ofctl("del-flows")
            switch.ofctl("del-groups")


@contextlib.contextmanager
def server(netns: str, port: int, family: socket.AddressFamily = socket.AF_INET) -> Iterator[None]:
    """Accept TCP connections and answer every line; until the end of the block."""
    listening = socket_in(netns, family=family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    listening.listen(64)
    clients: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(4096):
                client.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                clients.append(client)
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        for one in (listening, *clients):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def connect(netns: str, address: str, port: int, *, source_port: int = 0, seconds: float = 2.0) -> socket.socket:
    """Open a TCP connection from a namespace; raises OSError (also TimeoutError)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket_in(netns, family=family)
    made.settimeout(seconds)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if source_port:
        made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", source_port))
    try:
        made.connect((address, port))
    except OSError:
        made.close()
        raise
    return made


def echo(open_socket: socket.socket, text: bytes = b"hello") -> bytes:
    """Send and receive over an open connection."""
    open_socket.sendall(text)
    return open_socket.recv(4096)


def can_connect(netns: str, address: str, port: int, *, source_port: int = 0, seconds: float = 0.6) -> bool:
    """Tell whether a connection can be opened and answers."""
    try:
        with connect(netns, address, port, source_port=source_port, seconds=seconds) as made:
            return echo(made) == b"hello"
    except OSError:
        return False
