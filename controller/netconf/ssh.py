# SPDX-License-Identifier: AGPL-3.0-or-later
"""NETCONF over SSH (RFC 6242) through ncclient."""

from __future__ import annotations

import base64
import contextlib
import logging
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import paramiko
from ncclient import NCClientError, manager
from ncclient.operations import RaiseMode, RPCError, TimeoutExpiredError
from ncclient.transport.errors import SessionError, TransportError

from controller.netconf.device import Management
from controller.netconf.session import LockedError, NetconfError, Session, SessionLostError
from controller.netconf.tree import Element

_log = logging.getLogger(__name__)
CLOSE_SECONDS = 3.0  # how long a device may take to answer close-session
HOST_KEYS = (paramiko.Ed25519Key, paramiko.RSAKey, paramiko.ECDSAKey)  # those that ncclient can pin


@dataclass(frozen=True, slots=True)
class Waits:
    """Limits in seconds: for connecting, for the answer to one request, and between two keepalive packets."""

    connect: float = 10.0
    request: float = 30.0
    keepalive: int = 10


class SshSession(Session):
    """One ncclient manager.  Made by ``connect``."""

    def __init__(self, management: Management, waits: Waits) -> None:
        self._management = management
        self._manager = _connected(management, waits)
        self._capabilities = frozenset(self._manager.server_capabilities)
        self._closed = False

    @property
    def capabilities(self) -> frozenset[str]:
        return self._capabilities

    @property
    def connected(self) -> bool:
        return not self._closed and bool(self._manager.connected)

    def get_config(self, source: str, chosen: Element | None = None, *, defaults: bool = False) -> Element:
        arguments: dict[str, Any] = {"source": source}
        if chosen is not None:
            arguments["filter"] = _text(chosen)
        if defaults and self._reports_defaults():
            arguments["with_defaults"] = "report-all"
        with self._told():
            reply = self._manager.get_config(**arguments)
            if reply.data_ele is None:
                raise NetconfError(f"{self} answered get-config without <data>")
            return ElementTree.fromstring(reply.data_xml.encode())

    def edit_config(
        self, target: str, config: Element, *, test: str | None = None, on_error: str | None = None
    ) -> None:
        with self._told():
            self._manager.edit_config(_text(config), target=target, test_option=test, error_option=on_error)

    def lock(self, target: str) -> None:
        with self._told():
            self._manager.lock(target)

    def unlock(self, target: str) -> None:
        with self._told():
            self._manager.unlock(target)

    def commit(self, *, timeout: int | None = None, persist: str | None = None, persist_id: str | None = None) -> None:
        with self._told():
            self._manager.commit(
                confirmed=timeout is not None,
                timeout=None if timeout is None else str(timeout),
                persist=persist,
                persist_id=persist_id,
            )

    def cancel_commit(self, persist_id: str | None = None) -> None:
        with self._told():
            self._manager.cancel_commit(persist_id=persist_id)

    def discard_changes(self) -> None:
        with self._told():
            self._manager.discard_changes()

    def copy_config(self, source: str | Element, target: str) -> None:
        with self._told():
            self._manager.copy_config(source if isinstance(source, str) else _text(source), target)

    def close(self) -> None:
        # ncclient waits its whole timeout for close-session, and when no answer comes it leaves the transport open
        # with its thread (ncclient#668): the transport is closed here in any case.
        inner = self._manager._session
        self._closed = True
        self._manager.timeout = CLOSE_SECONDS
        if self._manager.connected:
            with contextlib.suppress(Exception):
                self._manager.close_session()
        _shut(inner)

    def __str__(self) -> str:
        return f"{self._management.address}:{self._management.port}"

    def _reports_defaults(self) -> bool:
        return any(":with-defaults:1.0" in one and "report-all" in one for one in self._capabilities)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn ncclient's errors into ours."""
        try:
            yield
        except RPCError as error:
            raise _refusal(self, error) from error
        except TimeoutExpiredError as error:
            # A late answer would be taken for nobody's, and what the device did is not known.
            self.close()
            raise SessionLostError(f"{self} did not answer in time", "timeout") from error
        except (TransportError, SessionError, paramiko.SSHException, OSError, EOFError) as error:
            raise SessionLostError(f"the session with {self} is lost: {error}", "lost") from error
        except (SyntaxError, ValueError) as error:
            # The parse errors of lxml and ElementTree are SyntaxErrors; where the next answer begins is not known.
            self.close()
            raise SessionLostError(f"{self} answered what cannot be read: {error}", "malformed-message") from error
        except NCClientError as error:
            raise NetconfError(f"{self}: {error}", "operation-not-supported") from error


def _connected(management: Management, waits: Waits) -> Any:
    _check_host_key(management)
    secrets = _secrets(management)
    try:
        return manager.connect_ssh(
            host=management.address,
            port=management.port,
            username=management.username,
            hostkey_b64=management.host_key,
            hostkey_verify=True,
            unknown_host_cb=lambda host, fingerprint: False,
            look_for_keys=False,
            allow_agent=False,
            timeout=waits.connect,
            keepalive=waits.keepalive,
            device_params={"name": "default"},
            manager_params={"timeout": waits.request},
            errors_params={"raise_mode": RaiseMode.ERRORS},
            **secrets,
        )
    except paramiko.ChannelException as error:
        # What a device at its limit of sessions does; ncclient lets it through as it is.
        text = f"it opens no session ({error.text}); it takes only a few at once: look on the device who has them"
        raise _unconnected(management, text) from error
    except SyntaxError as error:  # the parse error of lxml
        raise _unconnected(management, f"its hello is no XML: {error}") from error
    except (NCClientError, paramiko.SSHException, OSError, EOFError, ValueError) as error:
        raise _unconnected(management, str(error) or type(error).__name__) from error


def _unconnected(management: Management, text: str) -> SessionLostError:
    where = f"{management.address}:{management.port}"
    return SessionLostError(f"cannot connect to {where} as {management.username}: {text}", "connect")


def _check_host_key(management: Management) -> None:
    """Refuse a host key that is cut off or none: it would fail in words that name neither it nor the switch."""
    for kind in HOST_KEYS:
        with contextlib.suppress(paramiko.SSHException, ValueError):
            key = base64.b64decode(management.host_key, validate=True)
            if kind(data=key).asbytes() == key:  # paramiko fills up a short one with zeros
                return
    raise NetconfError(
        f"management.hostKey is no public key of type ed25519, rsa or ecdsa, or not a whole one: compare it with "
        f"what ssh-keyscan -p {management.port} {management.address} prints",
        "invalid-value",
    )


def _secrets(management: Management) -> dict[str, str]:
    """What ncclient proves with who we are; raises NetconfError."""
    found = {}
    if management.key_file is not None:
        secret_file(management.key_file)
        found["key_filename"] = management.key_file
    if management.password_file is not None:
        try:
            found["password"] = secret_file(management.password_file).decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            text = f"{management.password_file} holds no password: it is not UTF-8 text; write the password into it"
            raise NetconfError(text, "access-denied") from error
    return found


def secret_file(name: str) -> bytes:
    """The content of a file that only its owner may read; raises NetconfError."""
    path = Path(name)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise NetconfError(f"{name} has mode {mode & 0o777:04o}; it must be a file of mode 0600", "access-denied")
        return path.read_bytes()
    except OSError as error:
        text = f"{name} cannot be read: {error.strerror}; it must be a file of the user of odyssey-netconf, mode 0600"
        raise NetconfError(text, "access-denied") from error


def _text(element: Element) -> str:
    return ElementTree.tostring(element, encoding="unicode")


def _refusal(session: Session, error: RPCError) -> NetconfError:
    """Our error for what a device answered; where it gave several errors, the first decides what kind it is."""
    errors = getattr(error, "errors", None) or [error]
    first = errors[0]
    message = "; ".join((one.message or one.tag or str(one)).strip() for one in errors)
    path = (first.path or "").strip() or None
    tag = first.tag or "operation-failed"
    if tag in ("lock-denied", "in-use"):
        return LockedError(f"{session} is locked: {message}{_holder(first)}", tag, path)
    return NetconfError(f"{session} refused: {message} ({tag})", tag, path)


def _holder(error: RPCError) -> str:
    if not error.info:
        return ""
    holders = [item.text for item in ElementTree.fromstring(error.info).iter() if item.tag.endswith("session-id")]
    return f" (session {holders[0]})" if holders else ""


def _shut(inner: Any) -> None:
    """Close what remains of a session: channel, transport, threads."""
    if inner.transport is not None:
        with contextlib.suppress(Exception):
            inner.transport.close()
    if inner.is_alive():
        inner._closing.set()
        inner.join(CLOSE_SECONDS)
    if inner.is_alive() and inner is not threading.current_thread():
        _log.error("a thread of the session with %s does not end", inner.host)


Connect = Callable[[Management], Session]
"""Opens a session with a device; raises NetconfError."""
