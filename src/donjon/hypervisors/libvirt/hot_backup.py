# SPDX-License-Identifier: Apache-2.0
"""Backs up running guests through libvirt's backup jobs and checkpoints.

Measured with libvirt 9.0 and QEMU 7.2: a job that cannot be begun leaves neither scratch file nor checkpoint; libvirt
removes scratch files when a job or guest ends, also by force, but not the socket of a guest that was killed.
"""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from donjon.errors import HostError, RefusedError
from donjon.hypervisors.hot_backup import ActiveJob, Checkpoint, CheckpointError, DiskJob, Owner
from donjon.hypervisors.libvirt import domain_jobs
from donjon.hypervisors.libvirt.calls import told
from donjon.hypervisors.libvirt.connection import Connection, Domain, LibvirtError
from donjon.hypervisors.libvirt.job_xml import (
    backup_socket,
    backup_xml,
    checkpoint_xml,
    dac_label,
    parse_checkpoint,
    usual_dac_label,
)

_POLL_S = 0.05
_PASSING_S = 1.0
_UNANSWERED = "a command that QEMU has not answered yet"
_DISK_ERRORS = {1: "unspecified", 2: "no space"}
_WAIT = "wait until it has ended, or look at it with `virsh domjobinfo`"


class LibvirtBackups:
    """Backup jobs and checkpoints of the guests of one libvirt connection."""

    _connection: Connection

    def qemu_owner(self, uuid: str) -> Owner:
        """Whom the guest's process runs as."""
        domain = self._connection.domain(uuid)
        label = dac_label(domain.definition(live=True)) or self._usual_label()
        if label is not None:
            return _owner(label, domain.name)
        return Owner(os.getuid(), os.getgid()) if self._connection.is_session else Owner(0, 0)

    def _usual_label(self) -> str | None:
        """Whom a guest will run as that is off and whose definition does not say; None if libvirt does not, either."""
        with told("ask the host what it can do"):
            return usual_dac_label(self._connection.handle.getCapabilities())

    def active_job(self, uuid: str) -> ActiveJob | None:
        """The job under way, if any; a command that takes less than a second is none."""
        return _active_job(self._connection.domain(uuid))

    def begin_backup(self, uuid: str, disks: Sequence[DiskJob], socket: Path, checkpoint: str | None) -> None:
        """Hold this moment of some disks, and serve it on a unix socket."""
        domain = self._connection.domain(uuid)
        if (job := _active_job(domain)) is not None:
            raise _refused(domain, job.what)
        tracked = [disk.target for disk in disks if disk.track]
        new = checkpoint_xml(checkpoint, tracked) if checkpoint and tracked else None
        try:
            domain_jobs.begin_backup(domain, backup_xml(disks, str(socket)), new)
        except LibvirtError as error:
            if error.is_a("NO_DOMAIN_CHECKPOINT", "CHECKPOINT_INCONSISTENT"):
                raise CheckpointError(str(error), hint="read the disks in full") from error
            if error.is_a("OPERATION_TIMEOUT") or "blockjob" in str(error):
                job = _active_job(domain)
                raise _refused(domain, job.what if job else "a job of a disk") from error
            raise

    def end_backup(self, uuid: str, socket: Path, timeout_s: float) -> None:
        """End the job that serves on that socket, and wait until it is gone."""
        domain = self._connection.known_domain(uuid)
        deadline = time.monotonic() + timeout_s
        reason = "it has not ended"
        while domain is not None and _serves_on(domain, socket):
            try:
                if not domain_jobs.is_busy(domain):
                    domain_jobs.abort(domain)
            except LibvirtError as error:
                reason = str(error)
            if time.monotonic() >= deadline:
                raise HostError(f"cannot end the backup of {domain.name}: {reason} after {timeout_s:g} s", hint=_WAIT)
            time.sleep(_POLL_S)

    def checkpoints(self, uuid: str) -> list[Checkpoint]:
        """All of a VM's, the oldest first."""
        found = map(parse_checkpoint, domain_jobs.checkpoint_definitions(self._connection.domain(uuid)))
        return sorted(found, key=lambda checkpoint: (checkpoint.created_at, checkpoint.name))

    def adopt_checkpoint(self, uuid: str, name: str, targets: Collection[str]) -> None:
        """Make sure that a checkpoint is known and that each of these disks has what it recorded."""
        domain = self._connection.domain(uuid)
        births = [known.created_at for known in self.checkpoints(uuid) if known.name == name]
        definition = checkpoint_xml(name, targets, births[0] if births else datetime.now(UTC))
        try:
            domain_jobs.redefine_checkpoint(domain, definition, validate=True)
        except LibvirtError as error:
            if error.is_a("CHECKPOINT_INCONSISTENT"):
                raise CheckpointError(str(error), hint="read the disks in full") from error
            if not error.is_a("INVALID_ARG") or "flags" not in str(error):
                raise
            domain_jobs.redefine_checkpoint(domain, definition, validate=False)  # libvirt < 6.10: begin_backup tells

    def delete_checkpoint(self, uuid: str, name: str) -> None:
        """Forget a checkpoint, and what it recorded if the guest runs."""
        domain = self._connection.known_domain(uuid)
        if domain is None:
            return
        try:
            domain_jobs.delete_checkpoint(domain, name, metadata_only=not domain.is_active())
        except LibvirtError as error:
            if error.is_a("OPERATION_UNSUPPORTED"):  # It was turned off just now.
                domain_jobs.delete_checkpoint(domain, name, metadata_only=True)
            elif error.is_a("INTERNAL_ERROR"):
                self._delete_what_is_left(domain, name)
            else:
                raise

    def disk_errors(self, uuid: str) -> dict[str, str]:
        """What stopped the guest, by target."""
        domain = self._connection.domain(uuid)
        if not domain.is_active():
            return {}
        found = domain_jobs.disk_errors(domain)
        return {target: _DISK_ERRORS.get(code, "unspecified") for target, code in found.items()}

    def _delete_what_is_left(self, domain: Domain, name: str) -> None:
        """Of a checkpoint that some disks have lost: one disk after the other."""
        for known in self.checkpoints(domain.uuid):
            for target in known.targets if known.name == name else ():
                only = checkpoint_xml(name, [target], known.created_at)
                domain_jobs.redefine_checkpoint(domain, only, validate=False)
                try:
                    domain_jobs.delete_checkpoint(domain, name, metadata_only=False)
                except LibvirtError as error:
                    if not error.is_a("INTERNAL_ERROR", "OPERATION_UNSUPPORTED"):
                        raise
                    domain_jobs.delete_checkpoint(domain, name, metadata_only=True)


def _active_job(domain: Domain) -> ActiveJob | None:
    backup = domain_jobs.backup_definition(domain)
    if backup is not None:
        return ActiveJob("backup", backup_socket(backup))
    deadline = time.monotonic() + _PASSING_S
    while domain_jobs.is_busy(domain):
        if time.monotonic() >= deadline:
            return ActiveJob(_UNANSWERED)
        time.sleep(_POLL_S)
    what = domain_jobs.operation(domain)
    return ActiveJob(what) if what else None


def _serves_on(domain: Domain, socket: Path) -> bool:
    try:
        backup = domain_jobs.backup_definition(domain)
    except LibvirtError as error:
        if error.means_gone:
            return False
        raise
    return backup is not None and backup_socket(backup) == str(socket)


def _owner(label: str, name: str) -> Owner:
    """Of a label "USER:GROUP"; a + says that a number follows."""
    user, _, group = label.partition(":")
    try:
        uid = int(user) if user.lstrip("+").isdecimal() else pwd.getpwnam(user).pw_uid
        gid = int(group) if group.lstrip("+").isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise HostError(f"cannot tell whom the guest {name} runs as: {label!r} is not known here") from error
    return Owner(uid, gid)


def _refused(domain: Domain, what: str) -> RefusedError:
    return RefusedError(f"cannot back up {domain.name}: another job is active: {what}", hint=_WAIT)
