# SPDX-License-Identifier: Apache-2.0
"""The fake hypervisor keeps the contract of backup jobs; libvirt does with real guests, in tests/system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from donjon.model.vm import Disk, Power, Vm
from donjon.testing.hot_backup_contract import TARGETS, HotBackupContract
from donjon.testing.hypervisor import FakeHypervisor

WEB = "11111111-2222-4333-8444-555555555555"
SIZE = 1 << 20


@dataclass
class FakeGuest:
    """In memory."""

    folder: Path
    uuid: str = WEB
    host: FakeHypervisor = field(default_factory=FakeHypervisor)

    def __post_init__(self) -> None:
        disks = tuple(Disk(target, f"/images/{target}", "qcow2") for target in TARGETS)
        self.host.change(Vm(WEB, "web", "host", Power.RUNNING, disks))
        for target in TARGETS:
            self.host.fill(WEB, target, bytes(SIZE))

    def write(self, target: str, offset: int, data: bytes) -> None:
        self.host.write(WEB, target, offset, data)

    def kill(self) -> None:
        self.host.kill(WEB)
        self.start()

    def shut_off(self) -> None:
        self.host.power_off(WEB)

    def start(self) -> None:
        self.host.start(WEB)

    def forget_checkpoints(self) -> None:
        self.host.forget_checkpoints(WEB)


class TestFakeHypervisor(HotBackupContract):
    @pytest.fixture
    def guest(self) -> Iterator[FakeGuest]:
        with TemporaryDirectory(prefix="donjon-") as folder:
            yield FakeGuest(Path(folder))
