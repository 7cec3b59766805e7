# SPDX-License-Identifier: Apache-2.0
"""The one place that talks to libvirt-python: typed, quiet, its errors made ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from donjon.errors import HostError
from donjon.model.vm import Power

_WITHOUT_LIBVIRT = "without libvirt, describe the VM by --definition and --disk"


class LibvirtError(HostError):
    """libvirt refused; `code` is its error number (VIR_ERR_...)."""

    def __init__(self, message: str, *, code: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code

    @property
    def means_gone(self) -> bool:
        """What was asked for does not exist, or no longer."""
        libvirt = _module()
        missing = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL)
        return self.code in missing

    @property
    def means_denied(self) -> bool:
        """The user, or this connection, may not do that."""
        libvirt = _module()
        return self.code in (
            libvirt.VIR_ERR_AUTH_CANCELLED,
            libvirt.VIR_ERR_AUTH_FAILED,
            libvirt.VIR_ERR_AUTH_UNAVAILABLE,
            libvirt.VIR_ERR_ACCESS_DENIED,
            libvirt.VIR_ERR_OPERATION_DENIED,
        )


class Domain:
    """A domain of libvirt's, running or not."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain
        self.uuid: str = domain.UUIDString()
        self.name: str = domain.name()

    def definition(self, *, live: bool = False, secrets: bool = False) -> str:
        """Its XML: as it will be at its next start, or as it runs now; with passwords only if asked for.

        A transient domain has only the one it runs with, and gives that.
        """
        libvirt = _module()
        flags = 0 if live else libvirt.VIR_DOMAIN_XML_INACTIVE
        flags |= libvirt.VIR_DOMAIN_XML_SECURE if secrets else 0
        with _told(f"read the definition of {self.name}"):
            return str(self._domain.XMLDesc(flags))

    def is_active(self) -> bool:
        """Whether it runs, is paused, or anything but off."""
        with _told(f"look at {self.name}"):
            return bool(self._domain.isActive())

    def is_persistent(self) -> bool:
        """Whether it is still there after it was turned off."""
        with _told(f"look at {self.name}"):
            return bool(self._domain.isPersistent())

    def power(self) -> Power:
        """What the guest does. UNKNOWN where it changes by itself: crashed, asleep, or paused by libvirt for a job."""
        libvirt = _module()
        with _told(f"look at {self.name}"):
            state, reason = self._domain.state()
            saved = state == libvirt.VIR_DOMAIN_SHUTOFF and self._domain.hasManagedSaveImage()
        if saved:
            return Power.PAUSED
        if state == libvirt.VIR_DOMAIN_PAUSED:
            return Power.UNKNOWN if reason in _passing_pauses() else Power.PAUSED
        return {
            libvirt.VIR_DOMAIN_RUNNING: Power.RUNNING,
            libvirt.VIR_DOMAIN_BLOCKED: Power.RUNNING,
            libvirt.VIR_DOMAIN_SHUTDOWN: Power.RUNNING,
            libvirt.VIR_DOMAIN_SHUTOFF: Power.OFF,
        }.get(state, Power.UNKNOWN)

    def ask_to_shut_down(self) -> None:
        """Ask the guest to end: without flags, libvirt tries its agent (for 5 s), then ACPI; it does not wait."""
        with _told(f"shut down {self.name}"):
            self._domain.shutdownFlags(0)

    def start(self) -> None:
        """Turn it on."""
        with _told(f"start {self.name}"):
            self._domain.create()

    def suspend(self) -> None:
        """Stop its processors."""
        with _told(f"suspend {self.name}"):
            self._domain.suspend()

    def resume(self) -> None:
        """Let its processors go on."""
        with _told(f"resume {self.name}"):
            self._domain.resume()


class Connection:
    """A connection to libvirt. Thread-safe."""

    def __init__(self, uri: str, open_fully: Callable[[str], Any] | None = None) -> None:
        """Connect; where the user may only look, read-only. `open_fully` stands in for libvirt's own call.

        Raises:
            HostError: libvirt-python is not installed, or libvirt cannot be reached.
        """
        libvirt = _module()
        self.uri = uri
        self.read_only = False
        try:
            with _told(f"connect to libvirt at {uri}"):
                self._connection = (open_fully or libvirt.open)(uri)
        except LibvirtError as error:
            if not _may_be_allowed_to_look(error):
                raise _unreachable(error) from error
            self._connection = _open_read_only(uri, error)
            self.read_only = True

    def close(self) -> None:
        """Guests are not touched by it."""
        with _told("close the connection to libvirt"):
            self._connection.close()

    @property
    def host_name(self) -> str:
        """The host's own name for itself."""
        with _told("ask libvirt for the host's name"):
            return str(self._connection.getHostname())

    def domains(self) -> list[Domain]:
        """All of them, running or not."""
        with _told("list the VMs"):
            return [Domain(domain) for domain in self._connection.listAllDomains()]

    def domain(self, uuid: str) -> Domain:
        """The domain of that UUID; a LibvirtError that `means_gone` if there is none."""
        with _told(f"find the VM {uuid}"):
            return Domain(self._connection.lookupByUUIDString(uuid))

    def define(self, definition: str) -> Domain:
        """Add a domain, or change the one of that name and UUID."""
        with _told("define the VM"):
            return Domain(self._connection.defineXML(definition))

    def pools(self) -> list[str]:
        """The names of all storage pools."""
        with _told("list the storage pools"):
            return [str(pool.name()) for pool in self._connection.listAllStoragePools()]

    def pool_definition(self, pool: str) -> str:
        """The XML of a storage pool."""
        with _told(f"find the storage pool {pool!r}"):
            return str(self._connection.storagePoolLookupByName(pool).XMLDesc())

    def volume_path(self, pool: str, volume: str) -> str:
        """The path of a volume in a storage pool; not always that of a file."""
        with _told(f"find the volume {volume!r} of the storage pool {pool!r}"):
            return str(self._connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())


@cache
def _module() -> ModuleType:
    """libvirt-python, imported when first needed; told not to write errors to stderr."""
    try:
        import libvirt
    except ImportError as error:
        raise HostError(
            "cannot use libvirt: its Python module is not installed",
            hint=f"pip install 'donjon[libvirt]' (or apt install python3-libvirt); {_WITHOUT_LIBVIRT}",
        ) from error
    libvirt.registerErrorHandler(_say_nothing, None)
    return libvirt  # type: ignore[no-any-return]


def _say_nothing(_context: object, _error: object) -> None:
    """Errors are raised, not printed."""


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Translate libvirt's errors into "cannot WHAT: REASON"."""
    libvirt = _module()
    try:
        yield
    except libvirt.libvirtError as error:
        raise LibvirtError(f"cannot {what}: {error.get_error_message()}", code=error.get_error_code()) from error


def _passing_pauses() -> frozenset[int]:
    """Reasons for which libvirt pauses a guest and lets it go on by itself."""
    libvirt = _module()
    return frozenset(
        getattr(libvirt, f"VIR_DOMAIN_PAUSED_{reason}")
        for reason in ("MIGRATION", "SAVE", "DUMP", "SHUTTING_DOWN", "SNAPSHOT", "STARTING_UP", "POSTCOPY")
    )


def _may_be_allowed_to_look(error: LibvirtError) -> bool:
    return error.means_denied or "Permission denied" in str(error)


def _open_read_only(uri: str, denied: LibvirtError) -> Any:
    try:
        with _told(f"connect to libvirt at {uri}"):
            return _module().openReadOnly(uri)
    except LibvirtError as error:
        raise _unreachable(denied) from error


def _unreachable(error: LibvirtError) -> LibvirtError:
    """The same error, with what to do about it."""
    if _may_be_allowed_to_look(error):
        hint = "run as root, or as a member of the group libvirt"
    elif error.code == _module().VIR_ERR_NO_CONNECT:
        hint = "an address is qemu:///system, qemu:///session, qemu+ssh://root@host/system or the like"
    else:
        hint = f"is libvirtd running there (`systemctl start libvirtd`)? {_WITHOUT_LIBVIRT}"
    return LibvirtError(str(error), code=error.code, hint=hint)
