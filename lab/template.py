# SPDX-License-Identifier: Apache-2.0
"""A guest that has booted once and is saved; from then on it is running, its agent answering, within a second or two.

Source: libvirt's virDomainRestoreFlags: the saved guest may get other disk images, but neither another name nor UUID.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from lab import LabError
from lab.agent import wait_for_agent
from lab.guest import create_disk, define, definition, start, virsh, wait_for
from lab.guest_kit import GuestKit
from lab.libvirt_host import Host
from lab.programs import run

NAME = "live"
DISKS = {"vda": ("qcow2", 192), "vdb": ("raw", 64)}  # format, and size in MiB


@dataclass(frozen=True, slots=True)
class Template:
    """A saved guest of a host, and its disks as they were at that moment."""

    host: Host
    folder: Path
    kit: GuestKit

    @property
    def state(self) -> Path:
        """The saved guest's memory and devices."""
        return self.folder / "state"

    @property
    def xml(self) -> Path:
        """The saved guest's definition."""
        return self.folder / "live.xml"

    def start(self, folder: Path, console: Path) -> dict[str, Path]:
        """Let it run, with copies of its disks in `folder`; gives them by target. Raises LabError."""
        uri, images = self.host.uri, images_in(folder)
        run("cp", "--sparse=always", "--reflink=auto", *images_in(self.folder).values(), folder)
        self.host.give(*images.values())
        xml = _with_files(self.xml.read_text(encoding="utf-8"), images, console)
        define(uri, xml)
        mine = folder / "running.xml"
        mine.write_text(xml, encoding="utf-8")
        virsh(uri, "restore", str(self.state), "--xml", str(mine), "--running")
        mine.unlink()
        wait_for_agent(uri, NAME)
        return images


def make_template(host: Host, kit: GuestKit, folder: Path) -> Template:
    """Boot it, save it, and keep all of that in `folder`, where the host's QEMU can read it. Raises LabError."""
    template = Template(host, folder, host.own(kit, folder))
    uri, images = host.uri, images_in(folder)
    for target, (image_format, size_mib) in DISKS.items():
        create_disk(images[target], size_mib, image_format)
    host.give(folder, *images.values())
    disks = {target: (image, DISKS[target][0]) for target, image in images.items()}
    define(uri, definition(template.kit, NAME, disks, folder / "console"))
    wait_for(start(uri, NAME), "ready")
    wait_for_agent(uri, NAME)
    template.xml.write_text(virsh(uri, "dumpxml", "--inactive", NAME), encoding="utf-8")
    virsh(uri, "save", NAME, str(template.state))
    virsh(uri, "undefine", NAME)
    return template


def images_in(folder: Path) -> dict[str, Path]:
    """Where the guest's disks are, by target."""
    return {target: folder / f"{target}.{image_format}" for target, (image_format, _) in DISKS.items()}


def _with_files(xml: str, images: Mapping[str, Path], console: Path) -> str:
    """The definition with other disk images and another console."""
    domain = ElementTree.fromstring(xml)
    for disk in domain.iterfind("devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        if target is None or source is None:
            raise LabError("a disk of the template has no target or no source")
        source.set("file", str(images[target.attrib["dev"]]))
    for source in domain.iterfind("devices/*[@type='file']/source[@path]"):
        source.set("path", str(console))
    return ElementTree.tostring(domain, encoding="unicode")
