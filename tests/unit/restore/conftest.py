# SPDX-License-Identifier: Apache-2.0
"""A block device to restore to, and a file that somebody writes to."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from donjon.images.locks import FLOCK, WRITE_PERMISSION_BYTE
from tests.unit.backup.site import MIB


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    backing = tmp_path / "device"
    backing.write_bytes(os.urandom(5 * MIB))
    loop = subprocess.run(["losetup", "--find", "--show", backing], check=False, capture_output=True, text=True)
    if loop.returncode != 0:
        pytest.skip(f"no loop devices here: {loop.stderr.strip()}")
    yield Path(loop.stdout.strip())
    subprocess.run(["losetup", "--detach", loop.stdout.strip()], check=True)


@contextmanager
def opened_for_writing(path: Path) -> Iterator[None]:
    """As QEMU does it."""
    with path.open("r+b") as file:
        lock = struct.pack(FLOCK, fcntl.F_RDLCK, os.SEEK_SET, WRITE_PERMISSION_BYTE, 1, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
        yield
