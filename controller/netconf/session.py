# SPDX-License-Identifier: AGPL-3.0-or-later
"""A NETCONF session (RFC 6241) with one device, as drivers see it.  Every method blocks."""

from __future__ import annotations

from abc import ABC, abstractmethod

from controller.netconf.tree import Element

RUNNING, CANDIDATE, STARTUP = "running", "candidate", "startup"
CAPABILITY = "urn:ietf:params:netconf:capability:"


class NetconfError(Exception):
    """A device refused a request; ``tag`` is the error-tag (RFC 6241, appendix A), ``path`` what it names."""

    def __init__(self, message: str, tag: str = "operation-failed", path: str | None = None) -> None:
        super().__init__(message if path is None else f"{path}: {message}")
        self.tag = tag
        self.path = path


class LockedError(NetconfError):
    """Somebody else holds the lock."""


class SessionLostError(NetconfError):
    """There is no session, or no answer in time: it is not known whether the request was carried out."""


class Session(ABC):
    """A connection to a device.  Its methods raise NetconfError, and SessionLostError when it has ended."""

    @property
    @abstractmethod
    def capabilities(self) -> frozenset[str]:
        """What the device told in its hello."""

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether the session is up, as far as is known."""

    @abstractmethod
    def get_config(self, source: str, chosen: Element | None = None, *, defaults: bool = False) -> Element:
        """Return the ``<data>`` of a datastore, or the part that a subtree filter chose.

        With ``defaults`` also what the device was not told, where it can answer that (RFC 6243).
        """

    @abstractmethod
    def edit_config(
        self, target: str, config: Element, *, test: str | None = None, on_error: str | None = None
    ) -> None:
        """Merge ``config`` into a datastore."""

    @abstractmethod
    def lock(self, target: str) -> None:
        """Lock a datastore; raises LockedError."""

    @abstractmethod
    def unlock(self, target: str) -> None:
        """Unlock a datastore."""

    @abstractmethod
    def commit(self, *, timeout: int | None = None, persist: str | None = None, persist_id: str | None = None) -> None:
        """Make the candidate the running configuration; with ``timeout`` (s) the device reverts if it is not confirmed
        by a second commit, with ``persist`` by that name from any session.
        """

    @abstractmethod
    def cancel_commit(self, persist_id: str | None = None) -> None:
        """Take back a commit that is not confirmed."""

    @abstractmethod
    def discard_changes(self) -> None:
        """Make the candidate the running configuration again."""

    @abstractmethod
    def copy_config(self, source: str | Element, target: str) -> None:
        """Replace a datastore by another one or by a ``<config>``."""

    @abstractmethod
    def close(self) -> None:
        """End the session; never raises and leaves no thread."""

    def can(self, name: str) -> bool:
        """Tell whether the device has a capability, by a short name such as ``:candidate`` or ``:validate:1.1``."""
        full = f"{CAPABILITY}{name.removeprefix(':')}"
        return any(one == full or one.startswith((f"{full}:", f"{full}?")) for one in self.capabilities)

    def known(self) -> tuple[str, ...]:
        """The device's capabilities by short names, such as ``candidate:1.0``; its data models are left out."""
        names = (one.removeprefix(CAPABILITY) for one in self.capabilities if one.startswith(CAPABILITY))
        return tuple(sorted({name.partition("?")[0] for name in names}))
