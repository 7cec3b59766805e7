# SPDX-License-Identifier: Apache-2.0
"""What a guest boots: a Debian kernel and an initramfs of ours, built once from Debian packages and kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import CACHE, LabError, LabUnavailableError
from lab.debian import Apt, archive_of, own_release
from lab.initramfs import build_initramfs, unpacked
from lab.programs import require, run

KERNEL_META = "linux-image-cloud-amd64"
KERNEL = r"linux-image-\d\S*"
PROGRAMS = ("busybox-static", "e2fsprogs", "libsqlite3-0", "qemu-guest-agent", "sqlite3")
READLINE = r"libreadline\d\S*"
WRITER = Path(__file__).with_name("writer.c")
COMPILER = {"gcc": "gcc libc6-dev"}


@dataclass(frozen=True, slots=True)
class GuestKit:
    """Files to boot a guest from, directly by QEMU."""

    kernel: Path
    initramfs: Path


def guest_kit(cache: Path = CACHE / "guest") -> GuestKit:
    """The kit, built if need be: a 31 MB download and a few seconds the first time.

    Raises:
        LabUnavailableError: the packages cannot be had, or kept, here.
    """
    with alone(cache / "lock"):
        try:
            packages = _packages(cache)
            (modules,) = unpacked(packages, "lib/modules").iterdir()
            content = build_initramfs(packages, modules, _writer(cache))
        except (LabError, OSError) as error:
            raise LabUnavailableError(f"cannot build the guest: {error}") from error
        kernel = packages / "boot" / f"vmlinuz-{modules.name}"
        initramfs = cache / f"initramfs-{_short_hash(content)}"
        if not initramfs.exists():
            _save(initramfs, content)
        return GuestKit(kernel, initramfs)


def _packages(cache: Path) -> Path:
    """Folder with the packages unpacked; from the lists of packages at hand, or from fresh ones if these are stale."""
    packages = cache / f"packages-{_short_hash(' '.join(PROGRAMS).encode())}"
    if not packages.exists():
        fresh = cache / "unpacking"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            _fetch(Apt(), fresh)
        except LabError:
            _fetch(archive_of(own_release(), cache / "apt"), fresh)
        fresh.rename(packages)
    return packages


def _fetch(apt: Apt, into: Path) -> None:
    apt.unpack([apt.dependency(KERNEL_META, KERNEL), apt.dependency("sqlite3", READLINE), *PROGRAMS], into)


def _writer(cache: Path) -> bytes:
    """The self-checking writer, compiled to need nothing of the guest but its kernel."""
    program = cache / f"writer-{_short_hash(WRITER.read_bytes())}"
    if not program.exists():
        require(COMPILER)
        unfinished = program.with_name(f"{program.name}.{os.getpid()}")
        run("gcc", "-O2", "-static", "-s", "-o", unfinished, WRITER)
        unfinished.rename(program)
    return program.read_bytes()


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _save(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.rename(path)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One builder at a time. Raises LabUnavailableError if nothing can be kept there."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise LabUnavailableError(f"cannot keep the guest in {lock.parent}: {error.strerror}") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
