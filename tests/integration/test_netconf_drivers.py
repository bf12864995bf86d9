# SPDX-License-Identifier: AGPL-3.0-or-later
"""The drivers of switches against a real NETCONF server over real SSH."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from controller.netconf.alliedtelesis import AlliedTelesisDriver
from controller.netconf.datamodel import Target
from controller.netconf.device import DeviceConfig, Management
from controller.netconf.driver import DeviceDriver, NotAppliedError, Tuning
from controller.netconf.nexus import NexusDriver
from controller.netconf.session import CANDIDATE, RUNNING, LockedError, NetconfError, SessionLostError
from controller.netconf.ssh import SshSession, Waits
from controller.netconf.tree import BASE, canonical
from tests.integration.netconf_support import NetconfServer, StartServer, Wire
from tests.netconf import samples

pytest_plugins = ["tests.integration.netconf_fixtures"]

TUNING = Tuning(confirm_seconds=30, lock_attempts=2, lock_wait_seconds=0.1)
TOKEN = "odyssey-t1"
NX = "http://cisco.com/ns/yang/cisco-nx-os-device"
FOREIGN = {
    "nexus9000": (
        f'<System xmlns="{NX}"><bd-items><bd-items><BD-list><fabEncap>vlan-300</fabEncap><name>theirs</name></BD-list>'
        "</bd-items></bd-items><intf-items><phys-items><PhysIf-list><id>eth1/9</id><mode>access</mode>"
        "<accessVlan>vlan-300</accessVlan></PhysIf-list></phys-items></intf-items><acl-items><ipv4-items><name-items>"
        "<ACL-list><name>theirs</name></ACL-list></name-items></ipv4-items></acl-items></System>"
    ),
    "alliedtelesis": (
        '<vlans xmlns="http://openconfig.net/yang/vlan"><vlan><vlan-id>300</vlan-id><config><vlan-id>300</vlan-id>'
        "<name>theirs</name></config></vlan></vlans>"
        '<interfaces xmlns="http://openconfig.net/yang/interfaces"><interface><name>port1.0.9</name><config>'
        "<description>theirs</description></config></interface></interfaces>"
        '<system xmlns="http://openconfig.net/yang/system"><openflow xmlns="http://openconfig.net/yang/openflow">'
        "<controllers><controller><name>theirs</name></controller></controllers><agent><config>"
        '<interfaces xmlns="http://alliedtelesis.com/ns/yang/at-openconfig-openflow-ext">'
        "<interface>port1.0.9</interface></interfaces></config></agent></openflow></system>"
    ),
}
WISH = {"nexus9000": samples.nexus, "alliedtelesis": samples.allied}
KINDS: dict[str, type[DeviceDriver]] = {"nexus9000": NexusDriver, "alliedtelesis": AlliedTelesisDriver}


class Site:
    """A server, and drivers that come and go."""

    def __init__(self, server: NetconfServer) -> None:
        self.server = server
        self.profile = server.profile
        self._open: list[SshSession | Wire] = []
        self._reader: SshSession | None = None

    def driver(self, tuning: Tuning = TUNING) -> tuple[DeviceDriver, Wire]:
        wire = Wire(self.server.session())
        self._open.append(wire)
        return KINDS[self.profile](wire, tuning), wire

    def other(self) -> SshSession:
        session = self.server.session()
        self._open.append(session)
        return session

    def config(self, vlans: dict[int, str] = samples.SHOP) -> DeviceConfig:
        return DeviceConfig.parse(WISH[self.profile](vlans, self.server.access))

    def target(self, vlans: dict[int, str] = samples.SHOP) -> Target:
        return Target.of(None, self.config(vlans))

    def change(self, target: Target) -> None:
        """Carry out a change from start to end."""
        driver, _ = self.driver()
        driver.stage(target)
        driver.apply(target, TOKEN)
        driver.confirm(TOKEN)

    def text(self) -> str:
        """Everything that is running."""
        if self._reader is None or not self._reader.connected:
            self._reader = self.other()
        return canonical(self._reader.get_config(RUNNING))

    def close(self) -> None:
        for session in self._open:
            session.close()


@pytest.fixture(params=["nexus9000", "alliedtelesis"])
def site(request: pytest.FixtureRequest, start_server: StartServer) -> Iterator[Site]:
    found = Site(start_server(request.param))
    yield found
    found.close()


@pytest.fixture
def nexus(start_server: StartServer) -> Iterator[Site]:
    found = Site(start_server("nexus9000"))
    yield found
    found.close()


@pytest.fixture
def allied(start_server: StartServer) -> Iterator[Site]:
    found = Site(start_server("alliedtelesis"))
    yield found
    found.close()


def test_what_is_set_is_read_back_and_the_second_time_nothing_is_sent(site: Site) -> None:
    target = site.target()
    driver, wire = site.driver()
    assert driver.stage(target).change
    assert driver.apply(target, TOKEN) is True
    driver.confirm(TOKEN)
    assert driver.read(target) == driver.model.values(target)
    wire.sent.clear()
    assert not driver.stage(target).change
    assert driver.apply(target, TOKEN) is False
    driver.confirm(TOKEN)
    assert set(wire.sent) == {"get_config"}


def test_what_is_not_owned_is_never_touched(site: Site) -> None:
    site.server.seed(FOREIGN[site.profile])
    site.change(site.target())
    site.change(Target.of(site.config(), site.config(samples.WEB)))
    bare = {**WISH[site.profile](samples.WEB, site.server.access), "ports": {}, "aggregates": {}, "acls": {}}
    bare |= {"vlans": {}, "openflowPorts": [], "controllers": []}
    site.change(Target.of(site.config(samples.WEB), DeviceConfig.parse(bare)))
    data = site.other().get_config(RUNNING)
    left = ElementTree.tostring(data, encoding="unicode")
    assert ("theirs" in left and ("vlan-300" in left or ">300<" in left) and "1.0.9" in left) or "eth1/9" in left
    assert "shop-web" not in left and "odyssey-edge" not in left
    theirs = ElementTree.fromstring(f'<config xmlns="{BASE}">{FOREIGN[site.profile]}</config>')
    assert leaves(theirs) <= leaves(data)


def leaves(element: ElementTree.Element, above: str = "") -> set[str]:
    """Every leaf with its path and text."""
    found: set[str] = set()
    for child in element:
        path = f"{above}/{child.tag}"
        found |= leaves(child, path) if len(child) else {f"{path}={(child.text or '').strip()}"}
    return found


def test_a_port_that_is_given_back_is_shut(site: Site) -> None:
    site.change(site.target())
    fewer = WISH[site.profile](samples.SHOP, site.server.access)
    name = samples.PORTS[site.profile][0]
    del fewer["ports"][name]
    site.change(Target.of(site.config(), DeviceConfig.parse(fewer)))
    driver, _ = site.driver()
    node = next(
        node for path, node in driver.read(site.target()).items()
        if any(step.key == name for step in path) and any(tag.endswith(("}adminSt", "}enabled")) for tag in node)
    )  # fmt: skip
    state = {tag.rpartition("}")[2]: value for tag, value in node.items()}
    assert state.get("adminSt", state.get("enabled")) in ("down", "false")


def test_a_lock_of_somebody_else_is_told_with_the_session(site: Site) -> None:
    other = site.other()
    other.lock(RUNNING)
    driver, _ = site.driver()
    before = site.text()
    with pytest.raises(LockedError, match="locked"):
        driver.stage(site.target())
    other.unlock(RUNNING)
    assert site.text() == before
    driver.stage(site.target())
    driver.apply(site.target(), TOKEN)
    driver.confirm(TOKEN)
    assert not driver.look(site.target())


def test_foreign_edits_in_the_candidate_are_refused_and_stay(nexus: Site) -> None:
    other = nexus.other()
    edit = ElementTree.fromstring(f'<config xmlns="{BASE}">{FOREIGN["nexus9000"]}</config>')
    other.edit_config(CANDIDATE, edit)
    before = canonical(other.get_config(CANDIDATE))
    driver, _ = nexus.driver()
    with pytest.raises(NetconfError) as told:
        driver.stage(nexus.target())
    assert "candidate" in str(told.value)
    assert canonical(other.get_config(CANDIDATE)) == before
    assert "theirs" not in nexus.text()
    other.discard_changes()
    driver.stage(nexus.target())


def test_a_staged_change_is_seen_by_nobody_and_leaves_no_trace(nexus: Site) -> None:
    before = nexus.text()
    driver, _ = nexus.driver()
    driver.stage(nexus.target())
    assert driver.held and nexus.text() == before
    driver.release()
    assert nexus.text() == before
    assert canonical(nexus.other().get_config(CANDIDATE)) == before
    nexus.other().lock(CANDIDATE)


def test_a_refused_value_is_named_by_its_path(site: Site) -> None:
    wish = WISH[site.profile](samples.SHOP, site.server.access)
    wish["vlans"]["130"] = "x" * 200
    target = Target.of(None, DeviceConfig.parse(wish))
    before = site.text()
    driver, _ = site.driver()
    with pytest.raises(NetconfError) as told:
        driver.stage(target)
        driver.apply(target, TOKEN)
    assert told.value.path is not None and "130" in told.value.path and told.value.path.endswith("name")
    assert told.value.tag == "invalid-value"
    driver.release()
    assert (not driver.look(target.back_to({})) and site.text() == before) or site.profile == "alliedtelesis"


def test_a_commit_that_the_server_swallows_is_done_another_way(nexus: Site) -> None:
    """yuma123 forgets in <validate> that the candidate was changed: the commit says ok and changes nothing."""
    driver, wire = nexus.driver()
    driver.stage(nexus.target())
    inner = wire.inner
    assert isinstance(inner, SshSession)
    inner._manager.validate("candidate")
    driver.apply(nexus.target(), TOKEN)
    assert wire.sent.count("commit") == 2
    driver.confirm(TOKEN)
    assert not driver.look(nexus.target())


def test_a_server_that_says_ok_and_does_nothing_is_caught(site: Site) -> None:
    before = site.text()
    driver, wire = site.driver()
    driver.stage(site.target())
    wire.lies = {"commit"} if site.profile == "nexus9000" else {"edit_config"}
    with pytest.raises(NotAppliedError, match="said ok and did not do it"):
        driver.apply(site.target(), TOKEN)
    assert site.text() == before
    wire.lies = set()
    driver.stage(site.target())
    assert driver.apply(site.target(), TOKEN) is True
    driver.confirm(TOKEN)
    assert not driver.look(site.target())


def test_a_candidate_that_does_not_hold_the_edit_is_caught_before_the_vote(nexus: Site) -> None:
    driver, wire = nexus.driver()
    wire.lies = {"edit_config"}
    with pytest.raises(NotAppliedError):
        driver.stage(nexus.target())
    nexus.other().lock(RUNNING)


def test_an_applied_change_is_taken_back(site: Site) -> None:
    site.change(site.target())
    driver, _ = site.driver()
    before = driver.read(site.target())
    target = Target.of(site.config(), site.config(samples.WEB))
    driver.stage(target)
    driver.apply(target, TOKEN)
    assert driver.read(site.target()) != before
    driver.revert(target, TOKEN)
    assert driver.read(site.target()) == before
    other = site.other()
    other.lock(RUNNING)


def test_a_commit_that_nobody_confirms_reverts_by_itself(nexus: Site) -> None:
    before = nexus.text()
    driver, _ = nexus.driver(Tuning(confirm_seconds=1))
    driver.stage(nexus.target())
    driver.apply(nexus.target(), TOKEN)
    assert nexus.text() != before
    # netconfd looks at its timers only when nobody asks anything for a second.
    until(lambda: nexus.text() == before, every=2.0)
    with pytest.raises(NetconfError, match="not active"):
        driver.confirm(TOKEN)
    nexus.other().lock(RUNNING)


@pytest.mark.parametrize("persistent", [True, False])
def test_an_unconfirmed_commit_of_a_lost_session_is_taken_back(nexus: Site, persistent: bool) -> None:
    before = nexus.text()
    driver, wire = nexus.driver()
    if not persistent:
        wire.inner._capabilities -= {  # type: ignore[attr-defined]
            "urn:ietf:params:netconf:capability:confirmed-commit:1.1"
        }
    driver.stage(nexus.target())
    driver.apply(nexus.target(), TOKEN)
    nexus.server.cut()
    nexus.server.start()
    if persistent:
        assert nexus.text() != before
    again, _ = nexus.driver()
    again.settle(TOKEN)
    until(lambda: nexus.text() == before)
    again.stage(nexus.target())
    again.apply(nexus.target(), TOKEN)
    again.confirm(TOKEN)
    assert not again.look(nexus.target())


def test_a_lost_session_takes_locks_and_edits_with_it(site: Site) -> None:
    before = site.text()
    driver, _ = site.driver()
    driver.stage(site.target())
    site.server.cut()
    site.server.start()
    until(lambda: not driver.held)
    with pytest.raises(SessionLostError):
        driver.apply(site.target(), TOKEN)
    driver.release()
    assert site.text() == before
    again, _ = site.driver()
    again.stage(site.target())
    again.apply(site.target(), TOKEN)
    again.confirm(TOKEN)
    assert not again.look(site.target())


def test_a_session_that_is_lost_in_the_middle_of_edits_is_brought_to_the_end_by_the_next(allied: Site) -> None:
    driver, wire = allied.driver(Tuning(edit_bytes=1))
    sent = 0

    def cut() -> None:
        nonlocal sent
        sent += 1
        if sent == 3:
            allied.server.cut()

    wire.before["edit_config"] = cut
    driver.stage(allied.target())
    with pytest.raises(SessionLostError):
        driver.apply(allied.target(), TOKEN)
    allied.server.start()
    again, _ = allied.driver()
    left = again.look(allied.target()).lines()
    assert 0 < len(left) < 27
    allied.change(allied.target())
    assert not again.look(allied.target())


def test_an_edit_that_fails_half_way_is_undone_by_the_computed_inverse(allied: Site) -> None:
    allied.change(allied.target())
    driver, wire = allied.driver(Tuning(edit_bytes=1))
    target = Target.of(allied.config(), allied.config(samples.WEB))
    driver.stage(target)
    before = driver.read(allied.target())
    sent = 0

    def refuse() -> None:
        nonlocal sent
        sent += 1
        if sent == 2:
            raise NetconfError("no room", "resource-denied")

    wire.before["edit_config"] = refuse
    with pytest.raises(NetconfError, match="no room"):
        driver.apply(target, TOKEN)
    assert driver.read(allied.target()) == before


def test_edits_are_cut_to_what_the_device_takes(allied: Site) -> None:
    driver, wire = allied.driver(Tuning(edit_bytes=600))
    driver.stage(allied.target())
    driver.apply(allied.target(), TOKEN)
    assert wire.sent.count("edit_config") > 3
    driver.confirm(TOKEN)
    assert not driver.look(allied.target())


def test_a_trunk_that_the_device_tells_in_ranges_is_not_edited_again(allied: Site) -> None:
    allied.change(allied.target())
    allied.server.seed(
        '<interfaces xmlns="http://openconfig.net/yang/interfaces"><interface><name>port1.0.1</name>'
        '<ethernet xmlns="http://openconfig.net/yang/interfaces/ethernet"><switched-vlan '
        f'xmlns="http://openconfig.net/yang/vlan"><config xmlns:nc="{BASE}" nc:operation="replace">'
        "<interface-mode>TRUNK</interface-mode><trunk-vlans>110..110</trunk-vlans><trunk-vlans>120..120</trunk-vlans>"
        "</config></switched-vlan></ethernet></interface></interfaces>"
    )
    driver, _ = allied.driver()
    assert not driver.look(allied.target())


def test_what_is_saved_outlives_the_device(site: Site) -> None:
    site.change(site.target())
    driver, _ = site.driver()
    assert driver.save() is None
    site.server.stop()
    site.server.start()
    again, _ = site.driver()
    assert not again.look(site.target())


def test_a_device_that_cannot_be_saved_says_what_to_do(allied: Site) -> None:
    driver, wire = allied.driver()
    wire.inner._capabilities = frozenset()  # type: ignore[attr-defined]
    assert "write memory" in str(driver.save())


def test_a_backup_brings_back_what_is_ours_and_nothing_else(site: Site) -> None:
    driver, _ = site.driver()
    site.change(site.target())
    backup = ElementTree.fromstring(driver.backup())
    site.change(Target.of(site.config(), site.config(samples.WEB)))
    site.server.seed(FOREIGN[site.profile])
    target = Target.of(site.config(), site.config(samples.WEB))
    back = target.back_to(driver.model.read(backup, target))
    site.change(back)
    assert not driver.look(site.target())
    assert "theirs" in site.text()


# Sessions


def test_another_host_key_is_refused(nexus: Site, tmp_path: Path) -> None:
    wrong = NetconfServer(tmp_path / "wrong", "nexus9000").host_key_b64
    management = Management.parse({**nexus.server.access, "hostKey": wrong})
    with pytest.raises(SessionLostError, match="cannot connect to 127"):
        SshSession(management, Waits())


@pytest.mark.parametrize("kind", ["keyFile", "passwordFile"])
def test_a_secret_that_others_may_read_is_refused(nexus: Site, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open")
    secret.chmod(0o640)
    access = {key: value for key, value in nexus.server.access.items() if key != "keyFile"}
    with pytest.raises(NetconfError, match="mode 0640; it must be a file of mode 0600"):
        SshSession(Management.parse({**access, kind: str(secret)}), Waits())


def test_a_key_that_the_device_does_not_know_is_refused(nexus: Site, tmp_path: Path) -> None:
    stranger = NetconfServer(tmp_path / "stranger", "nexus9000").key
    management = Management.parse({**nexus.server.access, "keyFile": str(stranger)})
    with pytest.raises(SessionLostError, match="cannot connect"):
        SshSession(management, Waits())


def test_closing_leaves_no_thread_also_when_the_device_is_silent(nexus: Site) -> None:
    before = set(threading.enumerate())
    for silent in (False, True, False):
        session = nexus.server.session()
        assert set(threading.enumerate()) - before
        if silent:
            nexus.server.pause()
        session.close()
        assert not session.connected
        until(lambda: not set(threading.enumerate()) - before)
        if silent:
            nexus.server.resume()


def test_a_device_that_does_not_answer_is_given_up(nexus: Site) -> None:
    session = SshSession(Management.parse(nexus.server.access), Waits(request=0.5))
    nexus.server.pause()
    with pytest.raises(SessionLostError, match="did not answer in time"):
        session.get_config(RUNNING)
    assert not session.connected
    nexus.server.resume()


def until(condition: Callable[[], bool], seconds: float = 20.0, every: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(every)
