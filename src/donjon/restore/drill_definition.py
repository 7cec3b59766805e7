# SPDX-License-Identifier: Apache-2.0
"""Rewrites a definition for a guest that must not be able to harm: what it has is on a list, all else is removed.

Source: libvirt.org/formatdomain.html.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement

from donjon.hypervisors.definition import attribute, disk_elements, disk_target, nvram_path, parse_domain
from donjon.hypervisors.document import format_document

AGENT = "org.qemu.guest_agent.0"

_HARMLESS = frozenset(
    {"emulator", "disk", "controller", "serial", "console", "channel", "interface", "input", "tpm", "video"}
    | {"memballoon", "rng", "watchdog", "panic", "iommu", "memory", "hub"}
)
_SILENT = frozenset({"graphics", "sound", "audio", "parallel"})
"""Devices of which nobody needs to be told: they only show the guest to somebody."""

_OF_THE_HOST = ("metadata", "memoryBacking", "cputune", "numatune", "seclabel", "perf")
"""Claims on the host, and labels by which backup policies would choose the guest."""

_KIB_PER_MIB = 1024


class Traits(NamedTuple):
    """What a definition says that matters for a drill."""

    agent: bool
    console: bool
    screen: bool
    interfaces: bool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a guest is given: its own `folder` with the images of the disks `targets`.

    Args:
        folder: that of all files that it may write to.
        targets: disks that were restored; others are removed.
        console: file in the folder that gets what it says on its first console.
        network: isolated network that its interfaces are in; None: it has no interfaces.
        memory_mib: more memory than that it does not get, in MiB; None: as the original.
    """

    folder: Path
    targets: Collection[str]
    console: Path
    network: str | None
    memory_mib: int | None = None


class Isolated(NamedTuple):
    """A definition, and what it has lost, a sentence each."""

    definition: str
    notes: tuple[str, ...]


def traits(definition: str) -> Traits:
    """What the guest has. Raises ConfigError if it is no definition."""
    domain = parse_domain(definition)
    return Traits(
        agent=any(_is_agent(channel) for channel in domain.iterfind("devices/channel")),
        console=bool(_consoles(domain)),
        screen=any(attribute(video.find("model"), "type") != "none" for video in domain.iterfind("devices/video")),
        interfaces=domain.find("devices/interface") is not None,
    )


def isolate(definition: str, around: Surroundings) -> Isolated:
    """A definition of the same guest that reaches nothing but its own files.

    Raises:
        ConfigError: it is no definition.
    """
    domain = parse_domain(definition)
    notes: list[str] = []
    _remove_claims(domain, notes)
    for devices in domain.findall("devices"):
        notes += _remove_devices(devices, around)
        _set_interfaces(devices, around.network, notes)
    _set_disks(domain)
    _set_screens(domain)
    _set_channels(domain)
    _set_consoles(domain, around.console)
    _set_firmware(domain, around.folder)
    _set_memory(domain, around.memory_mib, notes)
    return Isolated(format_document(domain), tuple(dict.fromkeys(notes)))


def _remove_claims(domain: Element, notes: list[str]) -> None:
    for child in list(domain):
        if ":" in child.tag:
            notes.append(f"removed: the hypervisor's own settings ({child.tag})")
            domain.remove(child)
        elif child.tag in _OF_THE_HOST:
            domain.remove(child)
    for event in ("on_crash", "on_poweroff"):
        if (action := domain.find(event)) is not None:
            action.text = "destroy"  # never a dump of its memory on the host, nor a guest that begins anew


def _remove_devices(devices: Element, around: Surroundings) -> Iterator[str]:
    for device in list(devices):
        kept, what = _judge(device, around)
        if not kept:
            devices.remove(device)
            if what:
                yield f"removed: {what}"


def _judge(device: Element, around: Surroundings) -> tuple[bool, str | None]:
    """Whether a device may stay, and else what to tell of it, if anything."""
    if device.tag in _SILENT:
        return False, None
    if device.tag not in _HARMLESS:
        return False, f"{device.tag} ({device.get('type') or attribute(device.find('model'), 'name') or 'of the host'})"
    harmless = {
        "disk": lambda: disk_target(device) in around.targets or _is_empty_drive(device),
        "channel": lambda: _is_agent(device),
        "input": lambda: device.get("type") not in ("passthrough", "evdev"),
        "tpm": lambda: attribute(device.find("backend"), "type") == "emulator",
        "rng": lambda: attribute(device.find("backend"), "model") in ("random", "builtin"),
        "memory": lambda: device.find("source/path") is None and device.get("model") in ("dimm", "virtio-mem"),
    }.get(device.tag)
    if harmless is None or harmless():
        return True, None
    if device.tag == "channel":
        return False, None
    return False, f"disk {disk_target(device)}, which was not restored" if device.tag == "disk" else device.tag


def _is_empty_drive(disk: Element) -> bool:
    return disk.get("device") in ("cdrom", "floppy") and disk.find("source") is None


def _is_agent(channel: Element) -> bool:
    return channel.get("type") == "unix" and attribute(channel.find("target"), "name") == AGENT


def _set_interfaces(devices: Element, network: str | None, notes: list[str]) -> None:
    interfaces = devices.findall("interface")
    for interface in interfaces:
        if network is None:
            devices.remove(interface)
            continue
        interface.attrib = {"type": "network"}
        _keep(interface, {"mac", "model", "alias", "address", "boot", "mtu", "rom", "acpi"})
        SubElement(interface, "source", network=network)
        if (rom := interface.find("rom")) is not None:
            rom.attrib.pop("file", None)
    if interfaces and network is None:
        notes.append("removed: all network interfaces, as guests of this connection can have no isolated network")


def _set_disks(domain: Element) -> None:
    """They are thrown away in the end: nobody waits for what is written to be durable."""
    for disk in disk_elements(domain):
        for tag in ("shareable", "transient", "backenddomain"):
            _drop(disk, tag)
        if (source := disk.find("source")) is not None:
            _drop(source, "reservations")
        driver = disk.find("driver")
        if driver is not None and source is not None:
            driver.set("cache", "unsafe")
            driver.attrib.pop("io", None)  # "native" goes with other caches only


def _set_screens(domain: Element) -> None:
    """Drawn by QEMU itself: there is nobody to show them to, and no graphics card of the host."""
    for video in domain.findall("devices/video"):
        _drop(video, "driver")
        for model in video.findall("model"):
            _drop(model, "acceleration")


def _set_channels(domain: Element) -> None:
    """The agent's socket is where libvirt puts that of this guest, never where the original's is."""
    for channel in domain.findall("devices/channel"):
        _keep(channel, {"target", "alias", "address"})


def _set_consoles(domain: Element, file: Path) -> None:
    """The first goes to a file, others nowhere; a console that only is another name of a serial port goes."""
    for devices in domain.findall("devices"):
        for console in devices.findall("console"):
            if _is_alias(console):
                devices.remove(console)
    for number, console in enumerate(_consoles(domain)):
        _keep(console, {"target", "alias", "address"})
        console.attrib = {"type": "null" if number else "file"}
        if number == 0:
            SubElement(console, "source", path=str(file))


def _consoles(domain: Element) -> list[Element]:
    every = [*domain.findall("devices/serial"), *domain.findall("devices/console")]
    return [console for console in every if not _is_alias(console)]


def _is_alias(console: Element) -> bool:
    return console.tag == "console" and attribute(console.find("target"), "type") in ("", "serial")


def _set_firmware(domain: Element, folder: Path) -> None:
    for loader in domain.findall("os/loader"):
        if loader.get("type") == "pflash":
            loader.set("readonly", "yes")
    if (nvram := domain.find("os/nvram")) is not None and not _is_within(nvram_path(domain), folder):
        nvram.text = None
        _keep(nvram, set())
        nvram.attrib.pop("type", None)  # libvirt makes one from the template, for this guest
    for backend in domain.findall("devices/tpm/backend"):
        if (source := backend.find("source")) is not None and not _is_within(source.get("path", ""), folder):
            backend.remove(source)


def _is_within(path: str, folder: Path) -> bool:
    place = Path(path)
    return ".." not in place.parts and folder in place.parents


def _set_memory(domain: Element, memory_mib: int | None, notes: list[str]) -> None:
    if memory_mib is None:
        return
    if domain.find("cpu/numa") is not None:
        notes.append("it has as much memory as the original: that is laid out in NUMA cells")
        return
    memory = domain.find("memory")
    if memory is None or _kib(memory) <= memory_mib * _KIB_PER_MIB:
        return
    _drop(domain, "maxMemory")
    for devices in domain.findall("devices"):
        _drop(devices, "memory")
    for tag in ("memory", "currentMemory"):
        if (element := domain.find(tag)) is not None:
            element.set("unit", "KiB")
            element.text = str(memory_mib * _KIB_PER_MIB)


_UNITS = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def _kib(memory: Element) -> int:
    """In KiB; "KB", "MB" and so on are near enough to be taken for KiB and MiB."""
    unit = _UNITS.get((memory.get("unit") or "KiB")[:1].lower(), 10)
    return (int((memory.text or "0").strip() or 0) << unit) >> 10


def _keep(element: Element, tags: Collection[str]) -> None:
    for child in list(element):
        if child.tag not in tags:
            element.remove(child)


def _drop(element: Element, tag: str) -> None:
    for child in element.findall(tag):
        element.remove(child)
