# SPDX-License-Identifier: Apache-2.0
"""The file system a guest runs from: a cpio archive of BusyBox, kernel modules, programs and an init script.

Source: linux/Documentation/driver-api/early-userspace/buffer-format.rst ("newc" format of cpio).
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lab import LabError
from lab.programs import run

INIT = Path(__file__).with_name("init.sh")
HOOK = Path(__file__).with_name("fsfreeze_hook.sh")
# Those that need libraries.
PROGRAMS = ("usr/sbin/qemu-ga", "usr/sbin/resize2fs", "usr/bin/sqlite3")
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_console", "button", "evdev", "ext4")
SHUTDOWN = b"""#!/bin/sh
echo "DONJON-GUEST powering off" >/dev/console
umount /data/*
poweroff -f
"""
FOLDERS = ("bin", "data", "dev", "etc/acpi/PWRF", "lib64", "modules", "proc", "run", "sbin", "sys", "tmp", "usr/sbin")

FOLDER_MODE = 0o040755
PROGRAM_MODE = 0o100755
LINK_MODE = 0o120777


def unpacked(packages: Path, name: str) -> Path:
    """Where a file or folder of the packages is: below /usr since Debian 13. Raises LabError if it is not there."""
    for place in (packages / "usr" / name, packages / name):
        if place.exists():
            return place
    raise LabError(f"no {name} in the packages of the guest")


def build_initramfs(packages: Path, modules: Path, writer: bytes) -> bytes:
    """The archive, uncompressed: under emulation that boots faster.

    Args:
        packages: folder with BusyBox and the programs unpacked.
        modules: lib/modules/VERSION of the guest's kernel.
        writer: the self-checking writer.

    Raises:
        LabError: something that belongs into it is missing.
    """
    found = {name: unpacked(packages, name.removeprefix("usr/")) for name in PROGRAMS}
    libraries = {library for program in found.values() for library in _libraries(program, packages)}
    programs = {
        "init": INIT.read_bytes(),
        "bin/busybox": unpacked(packages, "bin/busybox").read_bytes(),
        "bin/writer": writer,
        **{name: program.read_bytes() for name, program in found.items()},
        "etc/qemu/fsfreeze-hook": HOOK.read_bytes(),
        "sbin/shutdown": SHUTDOWN,
        "etc/acpi/PWRF/00000080": b"#!/bin/sh\nexec /sbin/shutdown\n",
        **{_place(library, packages): library.read_bytes() for library in sorted(libraries)},
        **{f"modules/{n:02}.ko": driver for n, driver in enumerate(_drivers(modules))},
    }
    folders = {*FOLDERS, *(str(parent) for name in programs for parent in Path(name).parents if parent.name)}
    entries = [
        *((name, FOLDER_MODE, b"") for name in sorted(folders)),
        *((name, PROGRAM_MODE, content) for name, content in programs.items()),
        ("bin/sh", LINK_MODE, b"busybox"),
    ]
    return b"".join(_cpio(entries))


def _cpio(entries: Iterable[tuple[str, int, bytes]]) -> Iterator[bytes]:
    for inode, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        encoded = name.encode() + b"\0"
        # inode mode uid gid links mtime size device(2) special-device(2) name-size check
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        yield header + bytes(-len(header) % 4)
        yield content + bytes(-len(content) % 4)


def _libraries(program: Path, packages: Path) -> list[Path]:
    """What it needs, from the packages where they have it, else from this machine."""
    own = [str(folder) for folder in packages.glob("**/lib/x86_64-linux-gnu") if folder.is_dir()]
    listed = run("env", f"LD_LIBRARY_PATH={':'.join(own)}", "ldd", program)
    if missing := re.findall(r"(\S+) => not found", listed):
        raise LabError(f"its {program.name} needs {', '.join(missing)}, which this machine lacks")
    return [Path(library) for library in re.findall(r"(/\S+) \(0x", listed)]


def _place(library: Path, packages: Path) -> str:
    """Where a library is found in the guest."""
    return str(library.relative_to(packages if library.is_relative_to(packages) else "/"))


def _drivers(modules: Path) -> list[bytes]:
    files = {_plain(file.name): file for file in modules.rglob("*.ko*")}
    built_in = {_plain(Path(line).name) for line in (modules / "modules.builtin").read_text().splitlines()}
    loaded: dict[str, bytes] = {}
    for name in DRIVERS:
        _load(name, files, built_in, loaded)
    return list(loaded.values())


def _load(name: str, files: Mapping[str, Path], built_in: set[str], loaded: dict[str, bytes]) -> None:
    """Add a module to `loaded`, behind the ones it depends on."""
    if name in loaded or name in built_in:
        return
    if name not in files:
        raise LabError(f"its kernel has no driver {name}")
    packed = files[name].read_bytes()
    module = lzma.decompress(packed) if files[name].suffix == ".xz" else packed
    if depends := re.search(rb"\0depends=([^\0]+)\0", module):
        for dependency in depends[1].decode().split(","):
            _load(_plain(dependency), files, built_in, loaded)
    loaded[name] = module


def _plain(name: str) -> str:
    return name.partition(".ko")[0].replace("-", "_")
