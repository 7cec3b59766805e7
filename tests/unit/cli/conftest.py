# SPDX-License-Identifier: Apache-2.0
"""The command line in this process, with a state directory, a repository and a password of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from donjon.cli.main import main
from donjon.repository.format.keyfile import Scrypt
from donjon.testing.hypervisor import FakeHypervisor
from donjon.testing.migration import FakeMigrators
from donjon.wiring import Program

PASSWORD = "correct horse\tbattery 'staple'"
CHEAP = Scrypt(n=1024, r=8, p=1)
BLOCK = 512 << 10


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        assert self.raw.count(b"\n") == 1
        return json.loads(self.raw)


@dataclass
class Cli:
    """`donjon`, as an operator with this environment calls it."""

    capture: pytest.CaptureFixture[bytes]
    environ: dict[str, str]
    hypervisor: FakeHypervisor = field(default_factory=FakeHypervisor)
    migrators: FakeMigrators = field(default_factory=lambda: FakeMigrators({}))

    def __call__(self, *words: str | Path, **environ: str) -> Outcome:
        program = Program(
            connect=lambda _uri: nullcontext(self.hypervisor),
            migrator=lambda uri: nullcontext(self.migrators.at(uri)),
            scrypt=CHEAP,
            environ={**self.environ, **environ},
        )
        self.capture.readouterr()
        exit_code = main([str(word) for word in words], program)
        out, err = self.capture.readouterr()
        return Outcome(exit_code, out, err.decode())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def environ(home: Path) -> dict[str, str]:
    return {
        "HOME": str(home / "home"),
        "DONJON_STATE_DIR": str(home / "state"),
        "DONJON_REPOSITORY": str(home / "repo"),
        "DONJON_PASSWORD": PASSWORD,
    }


@pytest.fixture
def fresh(capfdbinary: pytest.CaptureFixture[bytes], environ: dict[str, str]) -> Cli:
    """Without a repository."""
    return Cli(capfdbinary, environ)


@pytest.fixture
def cli(fresh: Cli) -> Cli:
    """With an empty repository."""
    assert fresh("init").exit_code == 0
    return fresh


def make_raw(path: Path, blocks: Mapping[int, bytes], size: int = 8 * BLOCK) -> bytes:
    """A raw image with blocks of one byte each, zero elsewhere; returns its content."""
    with path.open("wb") as file:
        file.truncate(size)
        for block, byte in blocks.items():
            file.seek(block * BLOCK)
            file.write(byte * BLOCK)
    return path.read_bytes()


def make_qcow2(path: Path, size: int = 8 * BLOCK) -> None:
    """A qcow2 image that holds nothing."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], check=True)


def write_qcow2(path: Path, block: int, byte: int) -> None:
    """A guest writes a block."""
    command = f"write -P {byte} {block * BLOCK} {BLOCK}"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], check=True, stdout=subprocess.DEVNULL)


def raw_content(path: Path) -> bytes:
    """What a guest reads from a qcow2 image."""
    copy = path.with_name(f"{path.name}.raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, copy], check=True)
    return copy.read_bytes()


def settle(path: Path) -> None:
    """Wait until a later change of the file would show in its times; mtime alone can be set back."""
    while time.time_ns() - path.stat().st_ctime_ns < 2_050_000_000:
        time.sleep(0.05)
    os.sync()
