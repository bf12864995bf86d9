# SPDX-License-Identifier: AGPL-3.0-or-later
"""OpenFlow switches: for each an own ovsdb-server and ovs-vswitchd in an own namespace, user-space datapath."""

from __future__ import annotations

from pathlib import Path

from odyssey.lab import netns, processes, topology
from odyssey.lab.processes import Process
from odyssey.lab.settings import MANAGEMENT_ADDRESS, OPENFLOW_PORT, Settings
from odyssey.lab.shell import LabError, run, tail, wait_until

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
START_TIMEOUT = 20.0

CONTROLLER = f"ssl:{MANAGEMENT_ADDRESS}:{OPENFLOW_PORT}"
INACTIVITY_PROBE = 5000
"""Milliseconds of silence after which a switch probes its controller."""
MAX_BACKOFF = 1000
"""Milliseconds, at most, between two attempts to reach the controller."""


class Switch:
    """One Open vSwitch."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self.name = name
        self.directory = settings.directory / name
        self.netns = settings.netns(name)
        self.number = settings.switches.index(name) + 1

    @property
    def management_socket(self) -> Path:
        """The OpenFlow socket for `ovs-ofctl -O OpenFlow13 ... unix:SOCKET`."""
        return self.directory / f"{self.name}.mgmt"

    def vsctl(self, *arguments: str) -> str:
        """Run ovs-vsctl against this switch's database; return what it printed."""
        return run(["ovs-vsctl", f"--db=unix:{self.directory}/db.sock", "--timeout=10", *arguments])

    def up(self, pki: Path | None) -> None:
        """Start what does not run, make the bridge and its ports; the cables have to be there.

        `pki` holds key.pem, cert.pem and ca.pem of this switch; without it no controller can be set.
        """
        if not SCHEMA.exists():
            raise LabError(f"{SCHEMA} is missing: `make setup` installs Open vSwitch")
        self.directory.mkdir(parents=True, exist_ok=True)
        database = self.directory / "conf.db"
        if not database.exists():
            run(["ovsdb-tool", "create", str(database), str(SCHEMA)])
        fresh = self.pid("ovsdb-server") is None
        self._start(self._process("ovsdb-server", str(database), f"--remote=punix:{self.directory}/db.sock"), "db.sock")
        if fresh:
            self.vsctl("--no-wait", "init", "--", *self._threads())
        self._start(self._process("ovs-vswitchd", f"unix:{self.directory}/db.sock"), "ovs-vswitchd.ctl")
        self._bridge()
        if pki is not None:
            self.vsctl("set-ssl", str(pki / "key.pem"), str(pki / "cert.pem"), str(pki / "ca.pem"))

    def set_controller(self) -> None:
        """Point the switch to the controller, unless it is connected.

        Set anew, the switch tries at once: before its first connection it waits up to 8 s between two attempts. In one
        transaction, because a switch that is without a controller for a moment flushes its flows.
        """
        if self.connected():
            return
        settings = (f"inactivity_probe={INACTIVITY_PROBE}", f"max_backoff={MAX_BACKOFF}")
        self.vsctl(
            "del-controller", self.name, "--", "set-controller", self.name, CONTROLLER,
            "--", "set", "controller", self.name, *settings,
        )  # fmt: skip

    def connected(self) -> bool:
        """Tell whether the switch has a connection to the controller."""
        return "true" in self.vsctl("--no-heading", "--columns=is_connected", "list", "controller")

    def pid(self, daemon: str) -> int | None:
        """The process number of `ovsdb-server` or `ovs-vswitchd`, or None."""
        return processes.pid_of(self.directory / f"{daemon}.pid", str(self.directory))

    def pids(self) -> list[tuple[str, int]]:
        """The running daemons, the forwarding one first."""
        found = [(daemon, self.pid(daemon)) for daemon in ("ovs-vswitchd", "ovsdb-server")]
        return [(f"{self.name} {daemon}", pid) for daemon, pid in found if pid is not None]

    def _bridge(self) -> None:
        bridge = self.name
        datapath = (
            "datapath_type=netdev",
            "protocols=OpenFlow13",
            "fail_mode=secure",
            f"other-config:datapath-id={self.number:016x}",
            f"other-config:hwaddr=02:5d:00:00:00:{self.number:02x}",
            "other-config:disable-in-band=true",
        )
        command = ["--may-exist", "add-br", bridge, "--", "set", "bridge", bridge, *datapath]
        for interface, port in topology.switch_ports(self._settings, self.name).items():
            command += ["--", "--may-exist", "add-port", bridge, interface]
            command += ["--", "set", "interface", interface, f"ofport_request={port}"]
        self.vsctl(*command)
        wait_until(self._ports_are_right, START_TIMEOUT, f"{self.name}: ports as asked for", self._log("ovs-vswitchd"))

    def _ports_are_right(self) -> bool:
        listing = self.vsctl("--format=csv", "--no-heading", "--columns=name,ofport", "list", "interface")
        found = dict(line.split(",", 1) for line in listing.split())
        wanted = topology.switch_ports(self._settings, self.name)
        return all(found.get(interface) == str(port) for interface, port in wanted.items())

    @staticmethod
    def _threads() -> tuple[str, ...]:
        """One thread for each job: a lab shares few processors."""
        return ("set", "open_vswitch", ".", "other_config:n-handler-threads=1", "other_config:n-revalidator-threads=1")

    def _process(self, daemon: str, *arguments: str) -> Process:
        directory = str(self.directory)
        own = (f"--unixctl={directory}/{daemon}.ctl", "-vconsole:off", f"--log-file={self._log(daemon)}")
        return Process(
            name=f"{self.name} {daemon}",
            argv=tuple(netns.inside(self.netns, [daemon, *arguments, *own])),
            pidfile=self.directory / f"{daemon}.pid",
            log=self.directory / f"{daemon}.out",
            mark=directory,
            environment=dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), directory),
        )

    def _start(self, process: Process, socket: str) -> None:
        if processes.pid_of(process.pidfile, process.mark) is not None:
            return
        (self.directory / socket).unlink(missing_ok=True)
        pid = processes.start(process)

        def ready() -> bool:
            if not processes.alive(pid):
                raise LabError(f"{process.name} ended at once{tail(process.log)}")
            return (self.directory / socket).exists()

        wait_until(ready, START_TIMEOUT, f"{process.name}: start", process.log)

    def _log(self, daemon: str) -> Path:
        return self.directory / f"{daemon}.log"
