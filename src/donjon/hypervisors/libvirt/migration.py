# SPDX-License-Identifier: Apache-2.0
"""Running guests moved by libvirt: peer to peer, over TLS, the definition with them.

Sources: virDomainMigrateToURI3, virDomainAbortJob, virDomainGetJobStats.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any, Self
from urllib.parse import urlsplit

from donjon.errors import HostError
from donjon.hypervisors.libvirt.calls import libvirt_module, told
from donjon.hypervisors.libvirt.connection import Connection, Domain, LibvirtError
from donjon.hypervisors.migration import Route, RunningGuest
from donjon.model.progress import Progress

_LOOK_S = 0.5
_ABORT_S = 60.0


class LibvirtMigrator:
    """The running guests of one libvirt connection."""

    def __init__(self, uri: str) -> None:
        """Connect to any address libvirt understands. Raises HostError."""
        self._connection = Connection(uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @property
    def host_name(self) -> str:
        """The host's own name for itself."""
        return self._connection.host_name

    def running_guests(self) -> list[RunningGuest]:
        """The guests that run, by name."""
        active = [domain for domain in self._connection.domains() if domain.is_active()]
        guests = (RunningGuest(one.uuid, one.name, one.definition(live=True)) for one in active)
        return sorted(guests, key=lambda guest: guest.name)

    def move(self, uuid: str, route: Route, progress: Progress) -> None:
        """Move a guest; given up in order if the operator stops it."""
        domain = self._connection.domain(uuid)
        future: Future[None] = Future()
        mover = threading.Thread(target=_settle, args=(future, domain, route), name="migration", daemon=True)
        mover.start()
        progress.begin(f"moving {domain.name}", 0)
        try:
            _watch(domain, mover, progress)
        except BaseException:
            self._give_up(domain, mover)
            raise
        future.result()

    def _give_up(self, domain: Domain, mover: threading.Thread) -> None:
        """End the job; the guest goes on where it was, or is over there already."""
        if mover.is_alive():
            try:
                with told(f"stop moving {domain.name}"):
                    domain.handle.abortJob()
            except LibvirtError as error:
                if not error.is_a("OPERATION_INVALID", "NO_DOMAIN"):
                    raise
        mover.join(_ABORT_S)


def _settle(future: Future[None], domain: Domain, route: Route) -> None:
    try:
        _migrate(domain, route)
    except HostError as error:
        future.set_exception(error)
    else:
        future.set_result(None)


def _migrate(domain: Domain, route: Route) -> None:
    libvirt = libvirt_module()
    flags = (
        libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_PEER2PEER
        | libvirt.VIR_MIGRATE_TLS
        | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
    )
    if domain.is_persistent():
        flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    flags |= libvirt.VIR_MIGRATE_NON_SHARED_DISK if route.copy_storage else 0
    flags |= libvirt.VIR_MIGRATE_UNSAFE if route.shared_storage else 0
    parameters: dict[str, Any] = {}
    if route.via:
        parameters[libvirt.VIR_MIGRATE_PARAM_URI] = f"tcp://{route.via}"
        if name := urlsplit(route.destination).hostname:  # certificates are for it, not for its address over there
            parameters[libvirt.VIR_MIGRATE_PARAM_TLS_DESTINATION] = name
    if route.via and route.copy_storage:
        parameters[libvirt.VIR_MIGRATE_PARAM_DISKS_URI] = f"tcp://{route.via}"
    with told(f"move {domain.name} to {route.destination}"):
        domain.handle.migrateToURI3(route.destination, parameters, flags)


def _watch(domain: Domain, mover: threading.Thread, progress: Progress) -> None:
    """Tell how far it is until it has ended."""
    libvirt = libvirt_module()
    told_so_far = 0
    while mover.is_alive():
        mover.join(_LOOK_S)
        try:
            statistics = domain.handle.jobStats()
        except libvirt.libvirtError:  # the guest has gone, or the job not begun
            continue
        done = int(statistics.get("data_processed", 0))
        if done > told_so_far:
            progress.advance(done - told_so_far)
            told_so_far = done
