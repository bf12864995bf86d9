# SPDX-License-Identifier: AGPL-3.0-or-later
"""NETCONF over SSH (RFC 6242) through ncclient."""

from __future__ import annotations

import contextlib
import logging
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ncclient import NCClientError, manager
from ncclient.operations import RaiseMode, RPCError, TimeoutExpiredError
from ncclient.transport.errors import SessionError, TransportError

from controller.netconf.device import Management
from controller.netconf.session import LockedError, NetconfError, Session, SessionLostError
from controller.netconf.tree import BASE, Element

_log = logging.getLogger(__name__)
CLOSE_SECONDS = 3.0  # how long a device may take to answer close-session


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
        found = ElementTree.fromstring(reply.data_xml.encode())
        if found.tag != f"{{{BASE}}}data":
            raise NetconfError(f"{self} answered get-config with <{found.tag}>")
        return found

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
        except (TransportError, SessionError, OSError, EOFError) as error:
            raise SessionLostError(f"the session with {self} is lost: {error}", "lost") from error
        except NCClientError as error:
            raise NetconfError(f"{self}: {error}", "operation-not-supported") from error


def _connected(management: Management, waits: Waits) -> Any:
    where = f"{management.address}:{management.port}"
    secrets: dict[str, Any] = {}
    if management.key_file is not None:
        secrets["key_filename"] = str(secret_file(management.key_file))
    if management.password_file is not None:
        secrets["password"] = secret_file(management.password_file).read_text(encoding="utf-8").rstrip("\r\n")
    try:
        found = manager.connect_ssh(
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
    except (NCClientError, OSError, EOFError) as error:
        text = str(error) or type(error).__name__
        raise SessionLostError(f"cannot connect to {where} as {management.username}: {text}", "connect") from error
    return found


def secret_file(name: str) -> Path:
    """A file that only its owner may read; raises NetconfError."""
    path = Path(name)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise NetconfError(f"{name} cannot be read: {error.strerror}", "access-denied") from error
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise NetconfError(f"{name} has mode {mode & 0o777:04o}; it must be a file of mode 0600", "access-denied")
    return path


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
