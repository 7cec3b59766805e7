# SPDX-License-Identifier: Apache-2.0
"""A guest on a libvirt host: made, given jobs to do (init.sh says which there are), and asked what came of them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from lab import LabError
from lab.guest_kit import GuestKit
from lab.programs import run

MARK = "DONJON-GUEST "
BLOCK_SIZE = 4096
# Without the tests of its ciphers the kernel boots a second earlier; after a panic the guest is off, not stuck.
KERNEL_OPTIONS = "console=ttyS0 quiet mitigations=off cryptomgr.notests panic=-1"
DISK = """\
<disk type='file'>
      <driver name='qemu' type={format} discard='unmap'/>
      <source file={path}/>
      <target dev={target}/>
    </disk>"""
DEFINITION = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initramfs}</initrd>
    <cmdline>{options} donjon.job=</cmdline>
  </os>
  <features><acpi/></features>
  <on_reboot>destroy</on_reboot>
  <devices>
    {disks}
    <controller type='usb' model='none'/>
    <serial type='file'><source path={console}/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def definition(
    kit: GuestKit, name: str, disks: Mapping[str, tuple[Path, str]], console: Path, memory_mib: int = 128
) -> str:
    """A domain definition for libvirt.

    Args:
        kit: what the guest boots.
        name: of the guest.
        disks: image and its format by target (vda, vdb, ...).
        console: file that gets what the guest says.
        memory_mib: the guest's memory, in MiB.
    """
    return DEFINITION.format(
        name=escape(name),
        memory_mib=memory_mib,
        kernel=escape(str(kit.kernel)),
        initramfs=escape(str(kit.initramfs)),
        options=KERNEL_OPTIONS,
        console=quoteattr(str(console)),
        disks="\n    ".join(
            DISK.format(target=quoteattr(target), path=quoteattr(str(path)), format=quoteattr(image_format))
            for target, (path, image_format) in disks.items()
        ),
    )


def create_disk(path: Path, size_mib: int, image_format: str = "qcow2") -> None:
    """Make a disk image with an empty ext4 on it. Raises LabError."""
    options = ["-q", "-t", "ext4", "-b", str(BLOCK_SIZE), "-E", "lazy_itable_init=1,lazy_journal_init=1"]
    with TemporaryDirectory(dir=path.parent) as folder:
        raw = Path(folder) / "raw"
        run("mke2fs", *options, raw, f"{size_mib}M")
        run("qemu-img", "convert", "-f", "raw", "-O", image_format, raw, path)


def define(uri: str, xml: str) -> None:
    """Make a guest known to its host, or change it. Raises LabError."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "domain.xml"
        file.write_text(xml, encoding="utf-8")
        virsh(uri, "define", str(file))


def start(uri: str, name: str, *jobs: str) -> Path:
    """Boot a guest that is off and let it do the jobs; gives the file that gets what it says. Raises LabError."""
    xml = virsh(uri, "dumpxml", "--security-info", "--inactive", name)
    define(uri, re.sub(r"donjon\.job=[^\s<]*", f"donjon.job={','.join(jobs)}", xml))
    source = ElementTree.fromstring(xml).find("devices/serial/source")
    if source is None:
        raise LabError(f"guest {name} has no console in a file")
    console = Path(source.attrib["path"])
    console.unlink(missing_ok=True)
    virsh(uri, "start", name)
    return console


def wait_for(console: Path, text: str, timeout_s: float = 120) -> None:
    """Wait until the guest has said something. Raises LabError."""
    deadline = time.monotonic() + timeout_s
    while not any(text in line for line in said(console)):
        if time.monotonic() > deadline:
            raise LabError(f"the guest does not say {text!r} within {timeout_s:.0f} s, but {said(console)}")
        time.sleep(0.1)


def wait_until_off(uri: str, name: str, timeout_s: float = 120) -> None:
    """Wait until the guest has switched itself off. Raises LabError."""
    deadline = time.monotonic() + timeout_s
    while not is_off(uri, name):
        if time.monotonic() > deadline:
            raise LabError(f"guest {name} is still on after {timeout_s:.0f} s")
        time.sleep(0.2)


def run_jobs(uri: str, name: str, *jobs: str, timeout_s: float = 120) -> list[str]:
    """Boot a guest, let it do the jobs and switch itself off; gives its results, a line each.

    Raises:
        LabError: it cannot be started, does not come to an end (it is then forced off), or a job failed.
    """
    console = start(uri, name, *jobs, "poweroff")
    try:
        wait_until_off(uri, name, timeout_s)
    except LabError as error:
        virsh(uri, "destroy", name)
        raise LabError(f"{error}; it said {said(console)}") from error
    lines = said(console)
    if not lines or any(line.startswith("FAILED") for line in lines):
        raise LabError(f"guest {name} did not do {', '.join(jobs)}: {lines or 'it said nothing'}")
    return lines


def said(console: Path) -> list[str]:
    """What the guest has said so far, without the kernel's own messages."""
    if not console.exists():
        return []
    lines = console.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [line.partition(MARK)[2].strip() for line in lines if MARK in line and line.endswith("\n")]


def is_off(uri: str, name: str) -> bool:
    """Raises LabError if the host knows no such guest."""
    return virsh(uri, "domstate", name).strip() == "shut off"


def virsh(uri: str, *words: str) -> str:
    """What libvirt's own command line says. Raises LabError."""
    return run("virsh", "--connect", uri, "--quiet", *words)
