# SPDX-License-Identifier: Apache-2.0
"""libvirt's connections and domains, typed."""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import Lock
from typing import Any

from donjon.hypervisors.libvirt.calls import WITHOUT_LIBVIRT, LibvirtError, libvirt_module, told
from donjon.model.vm import Power

__all__ = ["Connection", "Domain", "LibvirtError"]


class Domain:
    """A domain of libvirt's, running or not."""

    def __init__(self, domain: Any) -> None:
        self.handle = domain
        self.uuid: str = domain.UUIDString()
        self.name: str = domain.name()

    def definition(self, *, live: bool = False, secrets: bool = False) -> str:
        """Its XML: as it will be at its next start, or as it runs now; with passwords only if asked for.

        A transient domain has only the one it runs with, and gives that.
        """
        libvirt = libvirt_module()
        flags = 0 if live else libvirt.VIR_DOMAIN_XML_INACTIVE
        flags |= libvirt.VIR_DOMAIN_XML_SECURE if secrets else 0
        with told(f"read the definition of {self.name}"):
            return str(self.handle.XMLDesc(flags))

    def is_active(self) -> bool:
        """Whether it runs, is paused, or anything but off."""
        with told(f"look at {self.name}"):
            return bool(self.handle.isActive())

    def is_persistent(self) -> bool:
        """Whether it is still there after it was turned off."""
        with told(f"look at {self.name}"):
            return bool(self.handle.isPersistent())

    def power(self) -> Power:
        """What the guest does. UNKNOWN where it changes by itself: crashed, asleep, or paused by libvirt for a job."""
        libvirt = libvirt_module()
        with told(f"look at {self.name}"):
            state, reason = self.handle.state()
            saved = state == libvirt.VIR_DOMAIN_SHUTOFF and self.handle.hasManagedSaveImage()
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
        with told(f"shut down {self.name}"):
            self.handle.shutdownFlags(0)

    def start(self) -> None:
        """Turn it on."""
        with told(f"start {self.name}"):
            self.handle.create()

    def suspend(self) -> None:
        """Stop its processors."""
        with told(f"suspend {self.name}"):
            self.handle.suspend()

    def resume(self) -> None:
        """Let its processors go on."""
        with told(f"resume {self.name}"):
            self.handle.resume()

    def agent_command(self, command: str, timeout_s: float) -> str:
        """What QEMU's guest agent answers to a command, both in JSON; it has whole seconds for it, at least one."""
        libvirt_module()
        import libvirt_qemu

        with told(f"talk to the guest agent of {self.name}"):
            return str(libvirt_qemu.qemuAgentCommand(self.handle, command, max(1, math.ceil(timeout_s)), 0))


class Connection:
    """A connection to libvirt. Thread-safe."""

    def __init__(self, uri: str, open_fully: Callable[[str], Any] | None = None) -> None:
        """Connect; where the user may only look, read-only. `open_fully` stands in for libvirt's own call.

        Raises:
            HostError: libvirt-python is not installed, or libvirt cannot be reached.
        """
        self.uri = uri
        self.read_only = False
        self._open_fully = open_fully
        self._reopening = Lock()
        self._handle = self._open()

    @property
    def handle(self) -> Any:
        """The connection itself; a new one if the daemon was started anew, which loses all that were open.

        Raises:
            HostError: it cannot be reached any more.
        """
        libvirt = libvirt_module()
        with self._reopening:
            try:
                self._handle.getLibVersion()  # asks the daemon
            except libvirt.libvirtError:
                self._handle = self._open()
            return self._handle

    def _open(self) -> Any:
        try:
            with told(f"connect to libvirt at {self.uri}"):
                return (self._open_fully or libvirt_module().open)(self.uri)
        except LibvirtError as error:
            if not _may_be_allowed_to_look(error):
                raise _unreachable(error) from error
            self.read_only = True
            return _open_read_only(self.uri, error)

    @property
    def is_session(self) -> bool:
        """Whether it is to the libvirt of an ordinary user."""
        return self.uri.partition("?")[0].endswith("/session")

    def close(self) -> None:
        """Guests are not touched by it."""
        with told("close the connection to libvirt"):
            self._handle.close()

    @property
    def host_name(self) -> str:
        """The host's own name for itself."""
        with told("ask libvirt for the host's name"):
            return str(self.handle.getHostname())

    def domains(self) -> list[Domain]:
        """All of them, running or not."""
        with told("list the VMs"):
            return [Domain(domain) for domain in self.handle.listAllDomains()]

    def domain(self, uuid: str) -> Domain:
        """The domain of that UUID; a LibvirtError that `means_gone` if there is none."""
        with told(f"find the VM {uuid}"):
            return Domain(self.handle.lookupByUUIDString(uuid))

    def known_domain(self, uuid: str) -> Domain | None:
        """The domain of that UUID, None if there is none."""
        try:
            return self.domain(uuid)
        except LibvirtError as error:
            if error.means_gone:
                return None
            raise

    def define(self, definition: str) -> Domain:
        """Add a domain, or change the one of that name and UUID."""
        with told("define the VM"):
            return Domain(self.handle.defineXML(definition))

    def pools(self) -> list[str]:
        """The names of all storage pools."""
        with told("list the storage pools"):
            return [str(pool.name()) for pool in self.handle.listAllStoragePools()]

    def pool_definition(self, pool: str) -> str:
        """The XML of a storage pool."""
        with told(f"find the storage pool {pool!r}"):
            return str(self.handle.storagePoolLookupByName(pool).XMLDesc())

    def volume_path(self, pool: str, volume: str) -> str:
        """The path of a volume in a storage pool; not always that of a file."""
        with told(f"find the volume {volume!r} of the storage pool {pool!r}"):
            return str(self.handle.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())


def _passing_pauses() -> frozenset[int]:
    """Reasons for which libvirt pauses a guest and lets it go on by itself."""
    libvirt = libvirt_module()
    return frozenset(
        getattr(libvirt, f"VIR_DOMAIN_PAUSED_{reason}")
        for reason in ("MIGRATION", "SAVE", "DUMP", "SHUTTING_DOWN", "SNAPSHOT", "STARTING_UP", "POSTCOPY")
    )


def _may_be_allowed_to_look(error: LibvirtError) -> bool:
    return error.means_denied or "Permission denied" in str(error)


def _open_read_only(uri: str, denied: LibvirtError) -> Any:
    try:
        with told(f"connect to libvirt at {uri}"):
            return libvirt_module().openReadOnly(uri)
    except LibvirtError as error:
        raise _unreachable(denied) from error


def _unreachable(error: LibvirtError) -> LibvirtError:
    """The same error, with what to do about it."""
    if _may_be_allowed_to_look(error):
        hint = "run as root, or as a member of the group libvirt"
    elif error.code == libvirt_module().VIR_ERR_NO_CONNECT:
        hint = "an address is qemu:///system, qemu:///session, qemu+ssh://root@host/system or the like"
    else:
        hint = f"is libvirtd running there (`systemctl start libvirtd`)? {WITHOUT_LIBVIRT}"
    return LibvirtError(str(error), code=error.code, hint=hint)
