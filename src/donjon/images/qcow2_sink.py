# SPDX-License-Identifier: Apache-2.0
"""Writing a disk into a new qcow2 image, by QEMU's own hand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from donjon.errors import HostError, IntegrityError
from donjon.host_command import run
from donjon.images.qemu_nbd import exported
from donjon.nbd.client import NbdClient

OPTIONS = ("compat", "cluster_size", "refcount_bits", "lazy_refcounts", "extended_l2", "compression_type")
CREATE_TIMEOUT_S = 120
SECTOR = 512
_VALUE = re.compile(r"[0-9a-zA-Z.]+")


class Qcow2Sink:
    """An empty qcow2 image without a backing file: zeros need not be written."""

    def __init__(self, client: NbdClient) -> None:
        self._client = client

    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        """Write `buffer` at `offset`. Thread-safe. Raises HostError."""
        self._client.write(offset, memoryview(buffer))

    def zero(self, offset: int, length: int) -> None:
        """Unallocated, which it is already."""


@contextmanager
def open_qcow2(path: Path, size: int, options: Mapping[str, str]) -> Iterator[Qcow2Sink]:
    """Make a qcow2 image of (at least: it has whole sectors) that size in an empty file, and open it for writing.

    Raises:
        HostError: QEMU cannot make it, or not write it to the end.
        IntegrityError: an option has a value that is none.
    """
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", *creation_options(options)]
    sectors_size = -(-size // SECTOR) * SECTOR
    done = run([*argv, "--", path, str(sectors_size)], timeout_s=CREATE_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise HostError(f"cannot create image {path}: {done.complaint.removeprefix('qemu-img: ')}")
    with exported(str(path), "--format", "qcow2", "--discard", "unmap") as client:
        yield Qcow2Sink(client)
        client.flush()


def creation_options(options: Mapping[str, str]) -> list[str]:
    """What tells `qemu-img create` to make an image with these options. Raises IntegrityError."""
    wanted = ",".join(f"{name}={_checked(name, options[name])}" for name in OPTIONS if name in options)
    return ["-o", wanted] if wanted else []


def _checked(name: str, value: str) -> str:
    """A value that is one word: a comma would begin another option."""
    if not _VALUE.fullmatch(value):
        raise IntegrityError(f"cannot create a qcow2 image: {value!r} is no value of its option {name}")
    return value
