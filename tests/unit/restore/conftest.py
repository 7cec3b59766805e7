# SPDX-License-Identifier: Apache-2.0
"""A block device to restore to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

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
