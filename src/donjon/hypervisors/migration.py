# SPDX-License-Identifier: Apache-2.0
"""What donjon needs to move running guests from one host to another, and what keeps a guest where it is.

Sources: libvirt.org/migration.html; QEMU's migration blockers, as 9p and vfio set them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from donjon.hypervisors.definition import attribute, disk_elements, disk_target, parse_domain
from donjon.model.progress import Progress

_BOUND_TO_THE_HOST = (
    ("devices/hostdev", "a device of this host is passed through to it"),
    ("devices/interface[@type='hostdev']", "a network card of this host is passed through to it"),
    ("devices/shmem", "it shares memory with others on this host (shmem)"),
    ("launchSecurity", "its memory is encrypted for this host's processor (launchSecurity)"),
)


@dataclass(frozen=True, slots=True)
class RunningGuest:
    """A guest that runs, with its live definition."""

    uuid: str
    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class Route:
    """Where a guest is moved to.

    `via` is the address of `destination` on the migration network. `copy_storage`: its disks go with it;
    `shared_storage`: both hosts see the same disks, even if libvirt cannot tell.
    """

    destination: str
    via: str | None = None
    copy_storage: bool = False
    shared_storage: bool = False


class Migrator(Protocol):
    """A host whose running guests can be moved. Every method raises HostError if the host refuses."""

    @property
    def host_name(self) -> str:
        """The name of the host."""
        ...

    def running_guests(self) -> list[RunningGuest]:
        """The guests that run, by name."""
        ...

    def move(self, uuid: str, route: Route, progress: Progress) -> None:
        """Move a guest while it runs, encrypted; afterwards only the other host knows it.

        If it fails or is interrupted, the guest runs on where it was.
        """
        ...


def obstacles(definition: str) -> tuple[str, ...]:
    """Why a guest cannot be moved while it runs, as its live definition says; empty if nothing is seen."""
    return tuple(_obstacles(definition))


def _obstacles(definition: str) -> Iterator[str]:
    domain = parse_domain(definition)
    for path, sentence in _BOUND_TO_THE_HOST:
        if domain.find(path) is not None:
            yield sentence
    for system in domain.findall("devices/filesystem"):
        if attribute(system.find("driver"), "type") != "virtiofs":
            yield f"directory {attribute(system.find('source'), 'dir')} of this host is shared with it (9p)"
    for disk in disk_elements(domain):
        if attribute(disk, "device") == "lun":
            yield f"disk {disk_target(disk)} is a device of this host (lun)"
