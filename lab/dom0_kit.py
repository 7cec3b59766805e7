# SPDX-License-Identifier: Apache-2.0
"""What a Xen dom0 boots: hypervisor, kernel, initramfs and a root disk, built once from Debian packages and kept."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import CACHE, LabError, LabUnavailableError
from lab.debian import Apt, archive_of, own_release, own_sources
from lab.guest_kit import alone
from lab.programs import require, run

SETUP = Path(__file__).with_name("dom0_setup.sh")
PACKAGES = (
    "linux-image-amd64",
    "xen-system-amd64",
    "busybox-static",
    "e2fsprogs",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "nftables",
    "openssh-server",
    "procps",
    "systemd-sysv",
    "udev",
)
# Drivers of the virtual machine the dom0 runs in; named, the initramfs is small and boots sooner.
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "crc32c_generic")
PROGRAMS = {"mke2fs": "e2fsprogs", "perl": "perl", "ssh-keygen": "openssh-client"}
DISK_SIZE = "4G"
ELF = b"\x7fELF"
XZ = b"\xfd7zXZ\0"


@dataclass(frozen=True, slots=True)
class Dom0Kit:
    """Files to boot a dom0 from, directly by QEMU; `key` is the private key that root of the dom0 lets in."""

    xen: Path
    kernel: Path
    initramfs: Path
    disk: Path
    key: Path


def dom0_kit(cache: Path = CACHE / "dom0") -> Dom0Kit:
    """The kit, built if need be: a 150 MB download and a minute the first time.

    Raises:
        LabUnavailableError: it cannot be built, or kept, here.
    """
    with alone(cache / "lock"):
        recipe = "\0".join([SETUP.read_text(), *PACKAGES, *DRIVERS])
        folder = cache / f"kit-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
        kit = Dom0Kit(*(folder / name for name in ("xen", "vmlinux", "initramfs", "disk.raw", "id")))
        if not folder.exists():
            fresh = cache / "building"
            shutil.rmtree(fresh, ignore_errors=True)
            try:
                _build(fresh, cache)
            except (LabError, OSError) as error:
                raise LabUnavailableError(f"cannot build the dom0: {error}") from error
            fresh.rename(folder)
        return kit


def _build(folder: Path, cache: Path) -> None:
    require(PROGRAMS)
    folder.mkdir(parents=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", folder / "id")
    root = folder / "root"
    _bootstrap(root, cache)
    authorized = root / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.copyfile(folder / "id.pub", authorized)
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (hypervisor,) = (root / "boot").glob("xen-*.gz")
    (initramfs,) = (root / "boot").glob("initrd.img-*")
    (folder / "xen").write_bytes(gzip.decompress(hypervisor.read_bytes()))
    (folder / "vmlinux").write_bytes(_elf_of(kernel.read_bytes()))
    shutil.copyfile(initramfs, folder / "initramfs")
    run("mke2fs", "-q", "-t", "ext4", "-d", root, folder / "disk.raw", DISK_SIZE, timeout_s=600)
    shutil.rmtree(root)


def _bootstrap(root: Path, cache: Path) -> None:
    """A Debian of the release that this machine runs, from its mirrors."""
    program = _mmdebstrap(cache)
    modules = "\\n".join(DRIVERS)
    run(
        "perl",
        program,
        "--variant=minbase",
        "--mode=root",
        '--aptopt=APT::Install-Recommends "false"',
        f"--include={','.join(PACKAGES)}",
        '--essential-hook=mkdir -p "$1/etc/initramfs-tools/conf.d"',
        '--essential-hook=echo MODULES=list >"$1/etc/initramfs-tools/conf.d/lab"',
        f'--essential-hook=printf "{modules}\\n" >"$1/etc/initramfs-tools/modules"',
        f"--customize-hook={SETUP}",
        own_release(),
        root,
        *own_sources(),
        timeout_s=1800,
    )


def _mmdebstrap(cache: Path) -> Path:
    """The program that makes a Debian root; it need not be installed."""
    packages = cache / "mmdebstrap"
    if not packages.exists():
        try:
            Apt().unpack(["mmdebstrap"], packages)
        except LabError:
            archive_of(own_release(), cache / "apt").unpack(["mmdebstrap"], packages)
    return packages / "usr/bin/mmdebstrap"


def _elf_of(kernel: bytes) -> bytes:
    """The kernel out of a bzImage: Xen need not unpack it, which takes long under emulation.

    Raises:
        LabError: there is none that is packed by xz.
    """
    for start in _places(XZ, kernel):
        try:
            unpacked = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(kernel[start:])
        except lzma.LZMAError:
            continue
        if unpacked.startswith(ELF):
            return unpacked
    raise LabError("its kernel is not packed by xz")


def _places(pattern: bytes, content: bytes) -> Iterator[int]:
    place = content.find(pattern)
    while place >= 0:
        yield place
        place = content.find(pattern, place + 1)
