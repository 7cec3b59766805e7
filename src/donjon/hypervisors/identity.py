# SPDX-License-Identifier: Apache-2.0
"""Rewrites a definition for a VM that comes back: other files, and if asked for, another name and identity.

Source: libvirt.org/formatdomain.html; 52:54:00 is the prefix QEMU and libvirt give to guests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from random import Random, SystemRandom
from typing import NamedTuple
from uuid import UUID
from xml.etree.ElementTree import Element

from donjon.hypervisors.definition import (
    attribute,
    child_text,
    disk_elements,
    disk_target,
    nvram_path,
    parse_domain,
    seed_entries,
)
from donjon.hypervisors.document import format_document

_KEPT_OF_SOURCE = {"slices", "encryption"}


class Rewritten(NamedTuple):
    """A definition ready to be defined, and what the operator should know of it, a sentence each."""

    definition: str
    notes: tuple[str, ...]


def rewrite_definition(
    definition: str,
    *,
    name: str | None = None,
    new_identity: bool,
    disks: Mapping[str, tuple[str, str]],
    side_files: Mapping[str, str],
    random: Random | None = None,
) -> Rewritten:
    """Point a definition to restored files, and give the VM another name and identity if asked to.

    All else stays, but for what only ever fits one run of one guest: the domain's id, media that were not restored,
    and the generation id, by which a guest learns that it went back in time. Two guests that write to one disk destroy
    it: who gets a new identity loses the disks that were not restored, unless they are read-only.

    Args:
        definition: the XML as it was kept.
        name: another name; None keeps it.
        new_identity: give it another UUID and other MAC addresses, so that it can run beside the original.
        disks: path and format by target, of the disks that were restored; a path below /dev is a block device.
        side_files: path by role, of the side files that were restored.
        random: where UUID and addresses come from; the system's by default.

    Raises:
        ConfigError: it is no definition.
    """
    domain = parse_domain(definition)
    notes = [*_rewrite_disks(domain, disks)]
    if new_identity:
        notes += _remove_disks_of_the_original(domain, disks)
    notes += _notes_on_what_stays(domain, disks)
    if name is not None:
        _rename(domain, name)
    if new_identity:
        _renew_identity(domain, random or SystemRandom())
    for role, path in side_files.items():
        _set_side_file(domain, role, path)
    _set_text(domain.find("genid"), None)
    domain.attrib.pop("id", None)
    return Rewritten(format_document(domain), tuple(notes))


def _rewrite_disks(domain: Element, disks: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    missing = set(disks)
    for disk in disk_elements(domain):
        target = disk_target(disk)
        missing.discard(target)
        if target in disks:
            yield from _set_image(disk, *disks[target])
        elif disk.get("device") in ("cdrom", "floppy"):
            yield from _empty(disk)
    for target in sorted(missing):
        yield f"the definition has no disk {target}: it was restored, but must be attached by hand"


def _set_image(disk: Element, path: str, image_format: str) -> Iterator[str]:
    """Have a disk use another image; what described the old one (backing files, servers, labels) goes."""
    if disk.get("device") == "lun" and not _is_device(path):
        yield f"disk {disk_target(disk)} was a SCSI device of the host: restored to a file, it is a plain disk"
        disk.set("device", "disk")
        _drop_attributes(disk, "sgio", "rawio")
    disk.set("type", "block" if _is_device(path) else "file")
    _child(disk, "driver").set("type", image_format)
    _drop(disk, "backingStore", "mirror", "auth")
    _set_source(_child(disk, "source"), path)


def _set_source(source: Element, path: str) -> None:
    _drop_attributes(source, *(set(source.keys()) - {"startupPolicy"}))
    _drop(source, *({child.tag for child in source} - _KEPT_OF_SOURCE))
    source.set("dev" if _is_device(path) else "file", path)


def _empty(drive: Element) -> Iterator[str]:
    if drive.find("source") is not None:
        yield f"the medium in {disk_target(drive)} was not restored: the drive is empty"
    drive.set("type", "file")
    _drop(drive, "source", "backingStore", "mirror", "auth")


def _remove_disks_of_the_original(domain: Element, disks: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    for devices in domain.findall("devices"):
        for disk in devices.findall("disk"):
            target = disk_target(disk)
            if target not in disks and disk.find("source") is not None and disk.find("readonly") is None:
                yield f"removed: disk {target}, which was not restored: the original may write to it"
                devices.remove(disk)


def _notes_on_what_stays(domain: Element, disks: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    for disk in disk_elements(domain):
        if disk_target(disk) not in disks and disk.find("source") is not None:
            yield f"disk {disk_target(disk)} was not restored: it still is what the original uses"
    if any(child.tag.endswith(":commandline") for child in domain):
        yield "the hypervisor's own arguments (commandline) were kept: they may name what the original uses"


def _rename(domain: Element, name: str) -> None:
    """Give the VM another name, and its firmware variables a file of that name."""
    old_name = child_text(domain, "name")
    _child(domain, "name").text = name
    if path := nvram_path(domain):
        file = PurePosixPath(path)
        rest = file.name.removeprefix(old_name) if file.name.startswith(old_name) else "_VARS" + file.suffix
        _set_nvram(domain, str(file.with_name(name + rest)))


def _renew_identity(domain: Element, random: Random) -> None:
    uuid = str(UUID(int=random.getrandbits(128), version=4))
    _child(domain, "uuid").text = uuid
    for entry in domain.findall("sysinfo/system/entry[@name='uuid']"):
        entry.text = uuid  # libvirt refuses another one than the domain's
    addresses: dict[str, str] = {}  # a failover pair shares its address, and must go on to
    for interface in domain.findall("devices/interface"):
        for mac in interface.findall("mac"):
            mac.set("address", addresses.setdefault(mac.get("address", "").lower(), _new_address(random)))
        _drop_attributes(interface.find("virtualport/parameters"), "interfaceid", "instanceid")
        if attribute(interface.find("target"), "managed") != "no":
            _drop_attributes(interface.find("target"), "dev")


def _new_address(random: Random) -> str:
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in random.getrandbits(24).to_bytes(3))


def _set_side_file(domain: Element, role: str, path: str) -> None:
    """Name a side file, where the definition has a place for it; a TPM's state else lies where its UUID says."""
    if role == "nvram":
        _set_nvram(domain, path)
    elif role == "tpm":
        for source in domain.findall("devices/tpm/backend/source"):
            source.set("path", path)
    elif role in ("kernel", "initrd", "dtb"):
        _set_text(domain.find(f"os/{role}"), path)
    elif (entry := dict(seed_entries(domain)).get(role)) is not None:
        entry.set("file", path)


def _set_nvram(domain: Element, path: str) -> None:
    nvram = _child(_child(domain, "os"), "nvram")
    if nvram.get("type") is None:
        nvram.text = path
    else:
        nvram.set("type", "block" if _is_device(path) else "file")
        _set_source(_child(nvram, "source"), path)


def _is_device(path: str) -> bool:
    return path.startswith("/dev/") and not path.startswith("/dev/shm/")  # noqa: S108 (nothing is created there)


def _child(parent: Element, tag: str) -> Element:
    """The child of that name, made as the first one if there is none."""
    child = parent.find(tag)
    if child is None:
        child = Element(tag)
        child.tail = parent.text
        parent.insert(0, child)
    return child


def _drop(parent: Element, *tags: str) -> None:
    """Remove children, with the line each stands on."""
    kept = [child for child in parent if child.tag not in tags]
    if len(kept) == len(parent):
        return
    end = parent[-1].tail
    parent[:] = kept
    if kept:
        kept[-1].tail = end
    else:
        parent.text = None


def _drop_attributes(element: Element | None, *names: str) -> None:
    for name in names:
        if element is not None:
            element.attrib.pop(name, None)


def _set_text(element: Element | None, text: str | None) -> None:
    if element is not None:
        element.text = text
