# SPDX-License-Identifier: Apache-2.0
"""Whatever is done to an image between backups, the next restore point is the disk as it is then, byte for byte."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from donjon.repository.format.snapshot import encode_snapshot
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.memory import MemoryStore
from tests.unit.backup.site import KIB, MIB, Site, bitmaps, disk, machine, new_chain, qemu, qemu_io, restored, truth

SIZE = 4 * MIB


class Lab:
    """An image over a backing file, and all that befalls one; random but for the seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.top = new_chain(folder, SIZE)
        self.site = Site(machine(disk("vda", self.top)))
        self.other = Site()
        self.snapshots: list[str] = []

    def _somewhere(self) -> str:
        offset = self.chance.randrange(SIZE // (4 * KIB) - 16) * 4 * KIB
        return f"{offset} {self.chance.choice([4, 16, 64]) * KIB}"

    def write(self) -> None:
        qemu_io(self.top, f"write -P {self.chance.randrange(1, 256)} {self._somewhere()}")

    def zero(self) -> None:
        qemu_io(self.top, f"write -z {self._somewhere()}", f"write -z -u {self._somewhere()}")

    def discard(self) -> None:
        qemu_io(self.top, f"discard {self._somewhere()}", f"discard {MIB} {MIB}")

    def shrink_and_grow(self) -> None:
        qemu("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", self.top, str(3 * MIB), check=False)
        qemu("qemu-img", "resize", "-q", "-f", "qcow2", self.top, str(SIZE), check=False)

    def grow(self) -> None:
        qemu("qemu-img", "resize", "-q", "-f", "qcow2", self.top, "+512K", check=False)

    def take_internal_snapshot(self) -> None:
        self.snapshots.append(f"s{len(self.snapshots)}")
        qemu("qemu-img", "snapshot", "-c", self.snapshots[-1], self.top)

    def revert(self) -> None:
        self.take_internal_snapshot()
        self.write()
        self.site.back_up()
        self.write()
        self._go_back(self.chance.choice(self.snapshots))

    def revert_between_backups(self) -> None:
        self.take_internal_snapshot()
        self.write()
        self._go_back(self.snapshots[-1])

    def delete_internal_snapshots(self) -> None:
        self.take_internal_snapshot()
        self.write()
        self.site.back_up()
        self._go_back(self.snapshots[-1])
        for name in self.snapshots:
            qemu("qemu-img", "snapshot", "-d", name, self.top)
        self.snapshots = []

    def _go_back(self, snapshot: str) -> None:
        """Where QEMU refuses because of bitmaps, their owner removes them first."""
        if bitmaps(self.top):
            self.remove_bitmaps()
        qemu("qemu-img", "snapshot", "-a", snapshot, self.top)

    def commit_into_backing_file(self) -> None:
        self.write()
        qemu("qemu-img", "commit", "-q", "-f", "qcow2", self.top, check=False)  # has it been converted, it has none

    def write_to_backing_file(self) -> None:
        qemu_io(self.top.with_name("base.qcow2"), f"write -P 200 {self._somewhere()}")

    def remove_bitmaps(self) -> None:
        self.write()
        for name in bitmaps(self.top):
            qemu("qemu-img", "bitmap", "--remove", "-f", "qcow2", self.top, name)

    def disable_bitmaps(self) -> None:
        for name in bitmaps(self.top):
            qemu("qemu-img", "bitmap", "--disable", "-f", "qcow2", self.top, name)
        self.write()

    def copy_over_the_image(self) -> None:
        """As `cp` of another file over the image does: same inode, other content."""
        twin = self.top.with_name("twin.qcow2")
        shutil.copyfile(self.top, twin)
        qemu_io(twin, f"write -P 201 {self._somewhere()}")
        shutil.copyfile(twin, self.top)

    def kill_qemu(self) -> None:
        words = [f"write -P 202 {self._somewhere()}", "flush", "write -P 203 0 4k", "sigraise 9"]
        killed = subprocess.run(
            ["qemu-io", "-f", "qcow2", *(f"-c{word}" for word in words), self.top], check=False, capture_output=True
        )
        assert killed.returncode == -signal.SIGKILL

    def convert_in_place(self) -> None:
        new = self.top.with_name("new.qcow2")
        qemu("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "--bitmaps", "--skip-broken-bitmaps", self.top, new)
        new.replace(self.top)
        self.snapshots = []
        self.write()

    def convert_to_raw(self) -> None:
        """And back, so that those that follow find a qcow2."""
        raw = self.top.with_name("disk.raw")
        qemu("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.top, raw)
        vm = self.site.host.find_vm("web01")
        self.site.host._vms[vm.uuid] = replace(vm, disks=(disk("vda", raw),))
        self.site.back_up()
        assert self.site.restored() == raw.read_bytes()
        self.site.host._vms[vm.uuid] = vm

    def put_an_older_copy_in_place(self) -> None:
        copy = self.top.with_name("copy")
        shutil.copy2(self.top, copy)
        for _ in range(2):
            self.write()
            self.site.back_up()
        shutil.copy2(copy, self.top)

    def use_two_repositories(self) -> None:
        self.site.back_up(repository=self.other.repository)
        self.write()
        self.site.back_up()
        self.write()
        point = self.site.back_up(repository=self.other.repository).restore_point
        assert restored(self.other.repository, point) == truth(self.top)

    def forget_the_newest(self) -> None:
        self.write()
        self.site.back_up()
        assert isinstance(self.site.repository.store, MemoryStore)
        self.site.repository.store.delete(FileName(FileType.SNAPSHOT, self.site.points()[-1].id))

    def tag_the_newest(self) -> None:
        """As restic tag and rewrite do: the snapshot comes again, under another id."""
        repository = self.site.repository
        name = self.site.points()[-1].id
        snapshot = repository.load_snapshot(name)
        tagged = msgspec.structs.replace(snapshot, tags=[*(snapshot.tags or []), "kept"], original=name)
        repository.files.save(FileType.SNAPSHOT, encode_snapshot(tagged))
        repository.store.delete(FileName(FileType.SNAPSHOT, name))
        self.write()

    def skip_tracking_once(self) -> None:
        self.write()
        self.site.back_up(track_changes=False)
        self.write()

    def skip_nothing(self) -> None:
        """Nothing happens at all."""


EVENTS: list[Callable[[Lab], None]] = [
    event for name, event in vars(Lab).items() if callable(event) and not name.startswith("_")
]


@pytest.mark.parametrize("seed", range(2))
def test_after_any_event_the_backup_is_the_disk(tmp_path: Path, seed: int) -> None:
    lab = Lab(tmp_path, seed)
    events = lab.chance.sample(EVENTS, len(EVENTS))
    lab.site.back_up()
    for number, event in enumerate(events):
        event(lab)
        expected = truth(lab.top)
        report = lab.site.back_up()
        so_far = [event.__name__ for event in events[: number + 1]]
        assert lab.site.restored() == expected, (so_far[-1], report.disks[0].reason)
        assert lab.site.checkpoint() in bitmaps(lab.top) | {None}, so_far
        assert lab.site.ledger.debts() == []


def test_an_image_with_internal_snapshots_can_still_go_back_to_them(tmp_path: Path) -> None:
    lab = Lab(tmp_path, 0)
    lab.site.back_up()
    lab.take_internal_snapshot()
    lab.write()
    lab.site.back_up()
    qemu("qemu-img", "snapshot", "-a", "s0", lab.top)
    lab.site.back_up()
    assert lab.site.restored() == truth(lab.top)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Lab.remove_bitmaps, "gone from the image"),
        (Lab.disable_bitmaps, "disabled"),
        (Lab.kill_qemu, "in use"),
        (Lab.grow, "resized"),
        (Lab.commit_into_backing_file, "backing file"),
        (Lab.write_to_backing_file, "backing file"),
        (Lab.put_an_older_copy_in_place, "gone from the image"),
        (Lab.forget_the_newest, "gone from the image"),
        (Lab.skip_tracking_once, "no bitmap was begun"),
    ],
)
def test_in_doubt_everything_is_read_and_the_report_says_why(
    tmp_path: Path, event: Callable[[Lab], None], reason: str
) -> None:
    lab = Lab(tmp_path, 1)
    lab.site.back_up()
    event(lab)
    (report,) = lab.site.back_up().disks
    assert reason in report.reason
    assert report.kept == 0
