# SPDX-License-Identifier: Apache-2.0
"""What libvirt calls jobs and checkpoints of a domain, call by call.

Who asks for a job while another is active waits for 30 s; `backup_definition` and `is_busy` never do.
Source: libvirt's src/qemu/qemu_driver.c and src/hypervisor/domain_job.c.
"""

from __future__ import annotations

from typing import Any

from donjon.hypervisors.libvirt.calls import LibvirtError, libvirt_module, told
from donjon.hypervisors.libvirt.connection import Domain

_OPERATIONS = (
    "START",
    "SAVE",
    "RESTORE",
    "MIGRATION_IN",
    "MIGRATION_OUT",
    "SNAPSHOT",
    "SNAPSHOT_REVERT",
    "DUMP",
    "BACKUP",
    "SNAPSHOT_DELETE",
)


def backup_definition(domain: Domain) -> str | None:
    """The XML of the backup job under way, if any."""
    try:
        with told(f"look at the backup of {domain.name}"):
            return str(domain.handle.backupGetXMLDesc())
    except LibvirtError as error:
        if error.is_a("NO_DOMAIN_BACKUP"):
            return None
        raise


def is_busy(domain: Domain) -> bool:
    """Whether something has the domain to itself at this moment."""
    try:
        with told(f"look at {domain.name}"):
            return bool(domain.handle.controlInfo()[0] != libvirt_module().VIR_DOMAIN_CONTROL_OK)
    except LibvirtError as error:
        if error.is_a("OPERATION_INVALID"):  # It is off.
            return False
        raise


def operation(domain: Domain) -> str | None:
    """The long operation under way, in a word or two."""
    libvirt = libvirt_module()
    try:
        with told(f"look at the jobs of {domain.name}"):
            stats = domain.handle.jobStats()
    except LibvirtError as error:
        if error.is_a("OPERATION_INVALID"):
            return None
        raise
    if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    names = {getattr(libvirt, f"VIR_DOMAIN_JOB_OPERATION_{name}", None): name for name in _OPERATIONS}
    return names.get(stats.get("operation"), "another operation").replace("_", " ").lower()


def begin_backup(domain: Domain, backup: str, checkpoint: str | None) -> None:
    """Begin a backup job; where libvirt can (from 11.10), it outlasts the guest's own shutdown."""
    flags = getattr(libvirt_module(), "VIR_DOMAIN_BACKUP_BEGIN_PRESERVE_SHUTDOWN_DOMAIN", 0)
    try:
        with told(f"back up {domain.name}"):
            domain.handle.backupBegin(backup, checkpoint, flags)
    except LibvirtError as error:
        if not flags or not error.is_a("INVALID_ARG") or "flags" not in str(error):
            raise
        with told(f"back up {domain.name}"):  # The daemon is older than the library.
            domain.handle.backupBegin(backup, checkpoint, 0)


def abort(domain: Domain) -> None:
    """Ask for the end of the active job; it goes on for a while."""
    with told(f"end the backup of {domain.name}"):
        domain.handle.abortJob()


def checkpoint_definitions(domain: Domain) -> list[str]:
    """The XML of all checkpoints, without that of the domain."""
    flags = libvirt_module().VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN
    with told(f"list the checkpoints of {domain.name}"):
        handles = domain.handle.listAllCheckpoints()
    definitions = []
    for handle in handles:
        try:
            with told(f"read a checkpoint of {domain.name}"):
                definitions.append(str(handle.getXMLDesc(flags)))
        except LibvirtError as error:
            if not error.is_a("NO_DOMAIN_CHECKPOINT"):
                raise
    return definitions


def redefine_checkpoint(domain: Domain, definition: str, *, validate: bool) -> None:
    """Make a checkpoint known, in place of one of that name; `validate` has its bitmaps looked at first."""
    libvirt = libvirt_module()
    flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
    flags |= getattr(libvirt, "VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE", 0) if validate else 0
    with told(f"adopt a checkpoint of {domain.name}"):
        domain.handle.checkpointCreateXML(definition, flags)


def delete_checkpoint(domain: Domain, name: str, *, metadata_only: bool) -> None:
    """Delete a checkpoint; succeeds if it is unknown."""
    flags = libvirt_module().VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY if metadata_only else 0
    try:
        with told(f"delete a checkpoint of {domain.name}"):
            domain.handle.checkpointLookupByName(name).delete(flags)
    except LibvirtError as error:
        if not error.is_a("NO_DOMAIN_CHECKPOINT"):
            raise


def disk_errors(domain: Domain) -> dict[str, int]:
    """By target, as VIR_DOMAIN_DISK_ERROR_... numbers."""
    with told(f"look at the disks of {domain.name}"):
        found: Any = domain.handle.diskErrors()
    return {str(target): int(code) for target, code in found.items()}
