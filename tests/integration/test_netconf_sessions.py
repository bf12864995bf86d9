# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sessions that a device refuses or spoils, with a real sshd and a subsystem of our own."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.netconf.device import Management
from controller.netconf.session import RUNNING, NetconfError, SessionLostError
from controller.netconf.ssh import SshSession, Waits
from tests.integration.netconf_support import NetconfServer

SPOILER = """
import re, sys
def read():
    text = ""
    while not text.endswith("]]>]]>"):
        text += sys.stdin.read(1)
    return text
def say(text):
    print(text, end="]]>]]>", flush=True)
say({hello!r})
read()
number = re.search('message-id="([^"]*)"', read())[1]
say({answer!r}.replace("NUMBER", number))
sys.stdin.read()
"""
NAMESPACE = "urn:ietf:params:xml:ns:netconf:base:1.0"
HELLO = (
    f'<hello xmlns="{NAMESPACE}"><capabilities><capability>urn:ietf:params:netconf:base:1.0</capability>'
    "</capabilities><session-id>1</session-id></hello>"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NetconfServer]:
    """sshd alone, which the test starts."""
    found = NetconfServer(tmp_path / "switch", "nexus9000")
    yield found
    found.stop()


def spoil(server: NetconfServer, hello: str, answer: str) -> None:
    """Let a session say ``hello``, and ``answer`` to the first request."""
    script = server.folder / "spoiler.py"
    script.write_text(SPOILER.format(hello=hello, answer=answer), encoding="utf-8")
    server.subsystem = f"{sys.executable} {script}"
    server.start_sshd()


def test_a_device_that_opens_no_session_is_told_and_leaves_no_thread(server: NetconfServer) -> None:
    server.max_sessions = 0
    server.start_sshd()
    before = set(threading.enumerate())
    with pytest.raises(SessionLostError, match=r"cannot connect to 127.*it opens no session .*look on the device"):
        SshSession(Management.parse(server.access), Waits(5.0, 5.0))
    deadline = time.monotonic() + 5.0
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, "a thread is left"
        time.sleep(0.05)


def test_a_hello_that_is_no_xml_is_a_session_that_cannot_be_had(server: NetconfServer) -> None:
    spoil(server, HELLO.replace("</capabilities>", ""), "")
    with pytest.raises(SessionLostError, match=r"cannot connect to 127.*its hello is no XML"):
        SshSession(Management.parse(server.access), Waits(5.0, 5.0))


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        ("<data><vlan></data>", SessionLostError, "answered what cannot be read"),
        ("<nothing/>", NetconfError, "answered get-config without <data>"),
    ],
)
def test_an_answer_that_cannot_be_read_is_a_failure_of_the_device(
    server: NetconfServer, answer: str, error: type[NetconfError], reason: str
) -> None:
    spoil(server, HELLO, f'<rpc-reply xmlns="{NAMESPACE}" message-id="NUMBER">{answer}</rpc-reply>')
    session = SshSession(Management.parse(server.access), Waits(5.0, 5.0))
    with pytest.raises(error, match=reason):
        session.get_config(RUNNING)
    assert session.connected is (error is NetconfError), "where the next answer begins is not known"
    session.close()
