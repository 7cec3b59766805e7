# SPDX-License-Identifier: Apache-2.0
"""What a libvirt domain definition says about the VM: its disks, the files beside them, its labels.

Source: libvirt.org/formatdomain.html; the default place of TPM state: libvirt, qemu_tpm.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID
from xml.etree.ElementTree import Element

from donjon.errors import ConfigError
from donjon.hypervisors.document import parse_document
from donjon.model.vm import Device, Disk, Power, SideFile, Vm

LABELS_NAMESPACE = "urn:donjon:vm:1"
"""Of the element in <metadata> that holds <label key='tier' value='db'/>."""

SYSTEM_TPM_ROOT = "/var/lib/libvirt/swtpm"
"""Where the system's libvirt keeps the state of emulated TPMs, by the VM's UUID."""

TPM_FOLDERS = ("tpm1.2", "tpm2")
"""What the directory with the state of a TPM is called: of version 1.2, of 2.0."""

VolumeResolver = Callable[[str, str], str | None]
"""From a pool and a volume in it to the volume's path; None if it has none."""

_MEDIA = (Device.CDROM, Device.FLOPPY)


def parse_definition(
    text: str,
    host: str,
    *,
    power: Power = Power.UNKNOWN,
    volume_path: VolumeResolver = lambda _pool, _volume: None,
    tpm_root: str = SYSTEM_TPM_ROOT,
) -> Vm:
    """The VM a definition describes.

    A side file is named where the definition says that there may be one; whether it is there, only the host knows.

    Args:
        text: the XML, as `virsh dumpxml` prints it.
        host: the host's name.
        power: as the hypervisor sees it; a definition alone does not say.
        volume_path: finds disks that are named by pool and volume; such a disk is remote if it cannot.
        tpm_root: the directory of TPM states by UUID.

    Raises:
        ConfigError: it is no definition, or lacks what every VM has.
    """
    domain = parse_domain(text)
    uuid = _uuid(domain)
    return Vm(
        uuid=uuid,
        name=child_text(domain, "name"),
        host=host,
        power=power,
        disks=tuple(_disk(element, volume_path) for element in disk_elements(domain)),
        definition=text,
        side_files=tuple(_side_files(domain, f"{tpm_root}/{uuid}")),
        labels=read_labels(domain),
    )


def has_backing_chain(text: str, target: str) -> bool:
    """Whether a definition names the images behind that of a disk, instead of leaving it to the image.

    Raises:
        ConfigError: it is no definition.
    """
    chains = (disk.find("backingStore") for disk in disk_elements(parse_domain(text)) if disk_target(disk) == target)
    return any(chain is not None and (len(chain) > 0 or bool(chain.attrib)) for chain in chains)


def parse_domain(text: str) -> Element:
    """The <domain> element of a definition, sure to have a name and disks with different targets.

    Raises:
        ConfigError: it is not.
    """
    domain = parse_document(text)
    if domain.tag != "domain":
        raise ConfigError(f"cannot read the definition: its root is <{domain.tag}>, not <domain>")
    if not child_text(domain, "name").strip():
        raise ConfigError("cannot read the definition: no <name>")
    targets = [disk_target(disk) for disk in disk_elements(domain)]
    if "" in targets:
        raise ConfigError("cannot read the definition: a disk has no <target dev=...>")
    if twice := {target for target in targets if targets.count(target) > 1}:
        raise ConfigError(f"cannot read the definition: several disks are called {min(twice)}")
    return domain


def disk_elements(domain: Element) -> list[Element]:
    """All <disk> elements, empty drives included."""
    return domain.findall("devices/disk")


def disk_target(disk: Element) -> str:
    """The guest's name for a disk; empty if it has none."""
    return attribute(disk.find("target"), "dev")


def child_text(element: Element, path: str) -> str:
    """The text of a child, empty if there is none. White space around it is not part of it, except in names."""
    text = element.findtext(path) or ""
    return text if path == "name" else text.strip()


def attribute(element: Element | None, name: str) -> str:
    """An attribute, empty if it or the element is missing."""
    return "" if element is None else element.get(name, "")


def seed_entries(domain: Element) -> Iterator[tuple[str, Element]]:
    """Files handed to the guest through firmware configuration (Ignition), by role: seed, seed2, ..."""
    entries = [entry for entry in domain.findall("sysinfo[@type='fwcfg']/entry") if entry.get("file")]
    for number, entry in enumerate(entries, start=1):
        yield ("seed" if number == 1 else f"seed{number}"), entry


def nvram_path(domain: Element) -> str:
    """Where the firmware's variables are; empty if they are nowhere, or where only libvirt knows."""
    nvram = domain.find("os/nvram")
    source = None if nvram is None else nvram.find("source")
    return attribute(source, "file") or attribute(source, "dev") or child_text(domain, "os/nvram")


def _uuid(domain: Element) -> str:
    """The VM's, as everybody writes it; empty if it has none yet."""
    text = child_text(domain, "uuid")
    try:
        return str(UUID(text)) if text else ""
    except ValueError as error:
        raise ConfigError(f"cannot read the definition: {text[:60]!r} is no UUID") from error


def _disk(element: Element, volume_path: VolumeResolver) -> Disk:
    device = _device(element)
    source, remote = _source(element, volume_path)
    return Disk(
        target=disk_target(element),
        source=source,
        image_format=attribute(element.find("driver"), "type") or None,
        device=device,
        read_only=device is Device.CDROM or element.find("readonly") is not None,
        shared=element.find("shareable") is not None,
        remote=remote,
    )


def _device(disk: Element) -> Device:
    name = disk.get("device", "disk")
    try:
        return Device(name)
    except ValueError as error:
        raise ConfigError(
            f"cannot read the definition: disk {disk_target(disk)} is an unknown device {name!r}"
        ) from error


def _source(disk: Element, volume_path: VolumeResolver) -> tuple[str | None, str | None]:
    """The path of a disk's image and, for what is not a local file or device, what it is."""
    source = disk.find("source")
    kind = disk.get("type", "file")
    if source is None:
        return None, None
    if kind == "volume":
        pool, volume = source.get("pool", ""), source.get("volume", "")
        path = volume_path(pool, volume)
        return path, None if path else f"volume: {pool}/{volume}"
    if kind in ("file", "block"):
        return source.get("file" if kind == "file" else "dev") or None, None
    return None, f"{kind}: {_remote(source)}".rstrip(": ")


def _remote(source: Element) -> str:
    """A remote source in a few words; secrets are never in a source's attributes."""
    words = (source.get(name, "") for name in ("protocol", "name", "dir", "type", "path", "namespace"))
    return " ".join(word for word in words if word)


def _side_files(domain: Element, tpm_directory: str) -> Iterator[SideFile]:
    if path := nvram_path(domain):
        yield SideFile("nvram", path)
    old, new = TPM_FOLDERS
    for backend in domain.findall("devices/tpm/backend[@type='emulator']"):
        folder = old if backend.get("version") == "1.2" else new
        yield SideFile("tpm", attribute(backend.find("source"), "path") or f"{tpm_directory}/{folder}")
    for role in ("kernel", "initrd", "dtb"):
        if path := child_text(domain, f"os/{role}"):
            yield SideFile(role, path)
    for role, entry in seed_entries(domain):
        yield SideFile(role, entry.get("file", ""))


def read_labels(domain: Element) -> dict[str, str]:
    """The labels in a definition's metadata."""
    metadata = domain.find("metadata")
    own = (
        []
        if metadata is None
        else [part for part in metadata if _namespace(part, metadata, domain) == LABELS_NAMESPACE]
    )
    labels = (label for part in own for label in part.iter() if label.tag.rpartition(":")[2] == "label")
    return {key: label.get("value", "") for label in labels if (key := label.get("key"))}


def _namespace(element: Element, *around: Element) -> str:
    prefix, colon, _ = element.tag.rpartition(":")
    declared = (outer.get(f"xmlns{colon}{prefix}") for outer in (element, *around))
    return next((namespace for namespace in declared if namespace is not None), "")
