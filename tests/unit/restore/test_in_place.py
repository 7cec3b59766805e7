# SPDX-License-Identifier: Apache-2.0
"""Disks go back to what they were, all of them or none, and what they were before is kept."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from donjon.errors import ConfigError, HostError, IntegrityError, RefusedError
from donjon.model.progress import NoProgress, Progress
from donjon.model.vm import Power
from donjon.restore.in_place import RollBackReport, put_back, roll_back
from donjon.restore.made import identity
from donjon.trace import listening
from tests.unit.backup.site import Calling, Site, damage, disk, machine, new_qcow2, new_raw, qemu_io, truth
from tests.unit.restore.conftest import opened_for_writing


class Changed(Site):
    """A VM with two disks that have changed since its restore point."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.qcow2, self.raw = new_qcow2(folder), new_raw(folder)
        super().__init__(machine(disk("vda", self.qcow2), disk("vdb", self.raw)))
        self.then = self.now()
        self.back_up()
        qemu_io(self.qcow2, "write -P 99 0 1M")
        self.raw.write_bytes(b"changed" * 100_000)
        self.raw.chmod(0o640)
        self.before = self.now()

    def now(self) -> tuple[bytes, bytes]:
        return truth(self.qcow2), self.raw.read_bytes()

    def left(self) -> set[str]:
        """What lies beside the images."""
        names = {path.name for path in self.folder.iterdir()}
        return {name for name in names if ".restored-" in name or ".before-" in name or "unfinished" in name}

    def roll_back(
        self, *targets: str, discard_present: bool = False, progress: Progress | None = None
    ) -> RollBackReport:
        return roll_back(
            self.repository,
            self.points()[-1],
            self.ledger,
            self.host.list_vms()[0],
            progress or NoProgress(),
            hypervisor=self.host,
            targets=targets,
            discard_present=discard_present,
        )


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    return Changed(tmp_path)


def test_all_disks_are_as_they_were_and_the_present_ones_are_kept(changed: Changed) -> None:
    report = changed.roll_back()
    assert changed.now() == changed.then
    kept = {disk.target: Path(disk.kept or "") for disk in report.disks}
    assert kept["vdb"].read_bytes() == changed.before[1]
    kept["vda"].rename(changed.qcow2)
    assert truth(changed.qcow2) == changed.before[0]
    assert changed.raw.stat().st_mode & 0o777 == 0o640
    assert changed.ledger.debts() == []


def test_the_present_disks_go_if_they_may(changed: Changed) -> None:
    report = changed.roll_back(discard_present=True)
    assert changed.now() == changed.then
    assert [disk.kept for disk in report.disks] == [None, None]
    assert changed.left() == set()


def test_one_disk_alone_even_if_named_twice(changed: Changed) -> None:
    changed.roll_back("vdb", "vdb")
    assert changed.now() == (changed.before[0], changed.then[1])


def test_an_image_that_was_lost_is_there_again(changed: Changed) -> None:
    changed.raw.unlink()
    changed.roll_back("vdb")
    assert changed.raw.read_bytes() == changed.then[1]


def test_the_backup_that_follows_is_right(changed: Changed) -> None:
    changed.roll_back()
    changed.back_up()
    assert (changed.restored(target="vda"), changed.restored(target="vdb")) == changed.then


def test_an_image_behind_a_link_is_swapped_where_it_is(changed: Changed) -> None:
    elsewhere = changed.folder / "elsewhere"
    elsewhere.mkdir()
    changed.raw.rename(elsewhere / "data.raw")
    changed.raw.symlink_to(elsewhere / "data.raw")
    changed.roll_back("vdb")
    assert changed.raw.is_symlink()
    assert changed.raw.read_bytes() == changed.then[1]


def assert_untouched(changed: Changed) -> None:
    assert changed.now() == changed.before
    assert changed.left() == set()
    assert changed.ledger.debts() == []


def test_a_guest_that_is_not_off_is_refused(changed: Changed) -> None:
    changed.host.start(changed.host.list_vms()[0].uuid)
    with pytest.raises(RefusedError, match="not shut off"):
        changed.roll_back()
    assert_untouched(changed)


def test_a_guest_that_is_started_meanwhile_keeps_its_disks(changed: Changed) -> None:
    uuid = changed.host.list_vms()[0].uuid
    with pytest.raises(RefusedError, match="not shut off"):
        changed.roll_back(progress=Calling(lambda: changed.host.start(uuid)))
    assert changed.host.power(uuid) is Power.RUNNING
    assert_untouched(changed)


def test_a_damaged_restore_point_changes_nothing(changed: Changed) -> None:
    damage(changed, "vdb", 3)
    with pytest.raises(IntegrityError):
        changed.roll_back()
    assert_untouched(changed)


@pytest.mark.parametrize(
    ("point", "time"),
    [("roll-back.restored", 1), ("roll-back.half-swapped", 1), ("roll-back.half-swapped", 2), ("roll-back.swapped", 1)],
)
@pytest.mark.parametrize("error", [HostError("no"), OSError(5, "Input/output error"), KeyboardInterrupt()], ids=repr)
def test_a_failure_in_the_midst_of_the_swap_puts_all_back(
    changed: Changed, point: str, time: int, error: BaseException
) -> None:
    reached: list[str] = []

    def fail(at: str) -> None:
        reached.append(at)
        if reached.count(point) == time:
            raise error

    with listening(fail), pytest.raises((HostError, OSError, KeyboardInterrupt)):
        changed.roll_back()
    assert_untouched(changed)


def swapped(folder: Path) -> tuple[Path, Path, str]:
    """A disk in its place, the one before beside it, and what is owed for that."""
    path, kept = folder / "disk", folder / "disk.before"
    path.write_bytes(b"restored")
    kept.write_bytes(b"present")
    return path, kept, json.dumps([{"path": str(path), "kept": str(kept), "restored": identity(path)}])


@pytest.mark.parametrize("moved", [True, False])
def test_what_was_moved_away_is_put_back_once(tmp_path: Path, moved: bool) -> None:
    path, _, swaps = swapped(tmp_path)
    if not moved:
        path.unlink()
    put_back(swaps)
    put_back(swaps)
    assert path.read_bytes() == b"present"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("use", ["is written to", "runs a guest", "is replaced"])
def test_a_disk_that_is_used_since_is_not_put_back(tmp_path: Path, use: str) -> None:
    """Nor are the others; the operator decides, and then nothing is owed any more."""
    first, kept_first, swaps = swapped(tmp_path)
    (tmp_path / "second").mkdir()
    path, kept, more = swapped(tmp_path / "second")
    swaps = json.dumps(json.loads(swaps) + json.loads(more))
    with ExitStack() as held:
        if use == "runs a guest":
            held.enter_context(opened_for_writing(path))
        elif use == "is written to":
            path.write_bytes(b"precious")
        else:
            path.unlink()
            path.write_bytes(b"precious")
        before = path.read_bytes()
        with pytest.raises(HostError, match="in use or was written to"):
            put_back(swaps)
    assert (path.read_bytes(), first.read_bytes()) == (before, b"restored")
    kept.unlink()
    kept_first.unlink()
    put_back(swaps)
    assert (path.read_bytes(), first.read_bytes()) == (before, b"restored")


@pytest.mark.parametrize(
    ("chain", "is_refused"),
    [
        ("", False),
        ("<backingStore/>", False),
        (
            "<backingStore type='file'><source file='/base.qcow2'/><backingStore/></backingStore>",
            True,
        ),
    ],
)
def test_a_disk_whose_definition_names_images_behind_it_is_refused(
    changed: Changed, chain: str, is_refused: bool
) -> None:
    (vm,) = changed.host.list_vms()
    disks = f"<disk type='file'>{chain}<target dev='vda'/></disk><disk type='file'><target dev='vdb'/></disk>"
    definition = f"<domain><name>web01</name><devices>{disks}</devices></domain>"
    changed.host.change(replace(vm, definition=definition))
    if is_refused:
        with pytest.raises(RefusedError, match="backingStore") as refused:
            changed.roll_back()
        assert "--name" in (refused.value.hint or "")
        assert_untouched(changed)
    else:
        changed.roll_back()
        assert changed.now() == changed.then


def test_the_report_says_what_was_not_rolled_back(changed: Changed) -> None:
    (note,) = changed.roll_back().notes
    assert "only disks" in note
    assert "definition" in note


def test_a_format_that_donjon_does_not_write_is_refused(changed: Changed) -> None:
    (vm,) = changed.host.list_vms()
    changed.host._vms[vm.uuid] = replace(vm, disks=(replace(vm.disks[0], image_format="vmdk"),))
    with pytest.raises(RefusedError, match="it is vmdk"):
        changed.roll_back("vda")
    with pytest.raises(ConfigError, match="no such disk now"):
        changed.roll_back("vdb")
    assert_untouched(changed)


def test_a_disk_keeps_the_format_its_definition_asks_for(changed: Changed) -> None:
    qcow2 = changed.folder / "now.qcow2"
    os.rename(changed.qcow2, qcow2)
    (vm,) = changed.host.list_vms()
    changed.host._vms[vm.uuid] = replace(vm, disks=(disk("vda", qcow2), disk("vdb", changed.folder / "data.qcow2")))
    changed.roll_back()
    assert truth(changed.folder / "data.qcow2")[: len(changed.then[1])] == changed.then[1]
    assert truth(qcow2) == changed.then[0]


@pytest.fixture
def on_device(changed: Changed, device: Path) -> Changed:
    """The second disk is a device now."""
    (vm,) = changed.host.list_vms()
    changed.host._vms[vm.uuid] = replace(vm, disks=(vm.disks[0], disk("vdb", device, "raw")))
    return changed


@pytest.mark.root
def test_a_device_is_written_in_place_if_its_content_may_go(on_device: Changed, device: Path) -> None:
    before = device.read_bytes()
    with pytest.raises(RefusedError, match="no room to keep its present state") as refused:
        on_device.roll_back()
    assert "--discard-present" in (refused.value.hint or "")
    assert device.read_bytes() == before
    on_device.roll_back(discard_present=True)
    assert device.read_bytes()[: len(on_device.then[1])] == on_device.then[1]
    assert truth(on_device.qcow2) == on_device.then[0]


@pytest.mark.root
@pytest.mark.parametrize("target", ["vda", "vdb"])
def test_a_device_is_not_touched_if_any_disk_is_damaged(on_device: Changed, device: Path, target: str) -> None:
    before = device.read_bytes()
    damage(on_device, target, 3)
    with pytest.raises(IntegrityError):
        on_device.roll_back(discard_present=True)
    assert device.read_bytes() == before
    assert truth(on_device.qcow2) == on_device.before[0]
