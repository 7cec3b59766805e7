# SPDX-License-Identifier: Apache-2.0
"""The XML of backup jobs and checkpoints.

Disks that are not named are left alone by both. Source: libvirt.org/formatbackup.html, formatcheckpoint.html.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement

from donjon.hypervisors.definition import attribute, child_text, parse_domain
from donjon.hypervisors.document import format_document, parse_document
from donjon.hypervisors.hot_backup import Checkpoint, DiskJob


def backup_xml(disks: Iterable[DiskJob], socket: str) -> str:
    """A job in pull mode that serves these disks on a unix socket."""
    root = Element("domainbackup", mode="pull")
    SubElement(root, "server", transport="unix", socket=socket)
    listed = SubElement(root, "disks")
    for job in disks:
        disk = SubElement(listed, "disk", name=job.target, backup="yes", type="file")
        disk.set("backupmode", "incremental" if job.since else "full")
        if job.since:
            disk.set("incremental", job.since)
        SubElement(disk, "scratch", file=str(job.scratch))
    return format_document(root)


def checkpoint_xml(name: str, targets: Iterable[str], created_at: datetime | None = None) -> str:
    """A checkpoint of these disks, new or made at that time."""
    root = Element("domaincheckpoint")
    SubElement(root, "name").text = name
    if created_at is not None:
        SubElement(root, "creationTime").text = str(int(created_at.timestamp()))
    listed = SubElement(root, "disks")
    for target in sorted(targets):
        SubElement(listed, "disk", name=target, checkpoint="bitmap")
    return format_document(root)


def parse_checkpoint(text: str) -> Checkpoint:
    """What libvirt says of a checkpoint; one without a time of birth is as old as can be.

    Raises:
        ConfigError: it is no checkpoint.
    """
    root = parse_document(text)
    seconds = child_text(root, "creationTime")
    return Checkpoint(
        name=child_text(root, "name"),
        targets=frozenset(disk.get("name", "") for disk in root.iterfind("disks/disk[@checkpoint='bitmap']")),
        created_at=_moment(seconds),
    )


def _moment(seconds: str) -> datetime:
    """Seconds since 1970 as text; whatever makes no sense is 1970."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def backup_socket(text: str) -> str | None:
    """The unix socket of a backup job; None if it is read in another way.

    Raises:
        ConfigError: it is no XML.
    """
    return attribute(parse_document(text).find("server[@transport='unix']"), "socket") or None


def dac_label(text: str) -> str | None:
    """Whom a running guest's process runs as, as "USER:GROUP" or "+UID:+GID"; None if its definition does not say.

    Raises:
        ConfigError: it is no definition.
    """
    return child_text(parse_domain(text), "seclabel[@model='dac']/label") or None


def usual_dac_label(capabilities: str) -> str | None:
    """Whom guests run as whose definition does not say, by the host's capabilities; None if these do not say.

    Source: libvirt.org/formatcaps.html, "secmodel".

    Raises:
        ConfigError: they are no XML.
    """
    for model in parse_document(capabilities).findall("host/secmodel"):
        if child_text(model, "model") == "dac":
            return child_text(model, "baselabel") or None
    return None


def console_file(text: str) -> str | None:
    """The file that gets what a guest says on its first serial console that goes to a file.

    Raises:
        ConfigError: it is no definition.
    """
    domain = parse_domain(text)
    consoles = [*domain.iterfind("devices/serial[@type='file']"), *domain.iterfind("devices/console[@type='file']")]
    return next((path for console in consoles if (path := attribute(console.find("source"), "path"))), None)
