# SPDX-License-Identifier: Apache-2.0
"""Several VMs of one moment: all are captured or none; each is stored for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from donjon.backup.backup import BackupReport, GroupIncompleteError, back_up_together
from donjon.backup.method import Capture
from donjon.backup.methods.offline import Offline
from donjon.errors import HostError, IncompleteError
from donjon.model.progress import NoProgress
from donjon.model.restore_point import Manifest
from donjon.model.vm import SideFile, Vm
from donjon.restore_points import load_definition, load_live_definition, load_manifest
from tests.unit.backup.site import NEVER, QUICK, Site, bitmaps, disk, machine, new_qcow2, qemu_io, restored, truth

LIVE = "<domain type='kvm' id='7'/>"


class Together(Offline):
    """Captures several VMs, each as Offline does; as if they had run and been frozen."""

    @contextmanager
    def capture_together(self, vms: Sequence[tuple[Vm, Manifest | None]]) -> Iterator[list[Capture]]:
        with ExitStack() as held:
            captures = [held.enter_context(self.capture(vm, since)) for vm, since in vms]
            yield [replace(capture, frozen_s=0.25, live_definition=LIVE) for capture in captures]


class Pair(Site):
    """Two VMs, each with an image of its own."""

    def __init__(self, folder: Path) -> None:
        self.images = []
        for name in ("db01", "web01"):
            (folder / name).mkdir()
            self.images.append(new_qcow2(folder / name))
        db, web = (machine(disk("vda", image), name=image.parent.name) for image in self.images)
        self.vms = [replace(db, uuid="u-db", definition="<domain/>"), web]
        super().__init__(*self.vms)

    def back_up_both(self) -> list[BackupReport]:
        method = Together(self.hypervisor, self.ledger, self.repository.config.id, self.method()._options)
        return back_up_together(self.vms, method, self.repository, QUICK, NoProgress(), NEVER)

    def write(self, pattern: int) -> None:
        for image in self.images:
            qemu_io(image, f"write -P {pattern} 1M 4k")


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_restore_points_of_one_moment_are_known_by_their_group(pair: Pair) -> None:
    pair.back_up_both()
    pair.write(99)
    reports = pair.back_up_both()
    manifests = [load_manifest(pair.repository, report.restore_point) for report in reports]
    assert [manifest.vm_name for manifest in manifests] == ["db01", "web01"]
    assert len({manifest.group for manifest in manifests} | {report.group for report in reports}) == 1
    assert manifests[0].group
    assert manifests[0].taken_at == manifests[1].taken_at
    assert [manifest.frozen_s for manifest in manifests] == [report.frozen_s for report in reports] == [0.25, 0.25]
    for report, image in zip(reports, pair.images, strict=True):
        assert report.disks[0].read == 512 << 10
        assert restored(pair.repository, report.restore_point) == truth(image)
        assert len(bitmaps(image)) == 1
    assert load_definition(pair.repository, reports[0].restore_point) == "<domain/>"
    assert load_live_definition(pair.repository, reports[0].restore_point) == LIVE
    assert pair.ledger.debts() == []


def test_if_one_cannot_be_captured_none_is(pair: Pair) -> None:
    pair.images[1].unlink()
    with pytest.raises(HostError):
        pair.back_up_both()
    assert (pair.points(), pair.ledger.debts(), bitmaps(pair.images[0])) == ([], [], set())


def test_if_one_cannot_be_stored_the_other_is(pair: Pair) -> None:
    pair.back_up_both()
    pair.write(99)
    old = bitmaps(pair.images[0])
    pair.vms[0] = replace(pair.vms[0], side_files=(SideFile("nvram", str(pair.images[0] / "no-directory")),))
    with pytest.raises(GroupIncompleteError) as failed:
        pair.back_up_both()
    (made,) = failed.value.reports
    assert f"{made.restore_point.id[:8]} of web01" in str(failed.value)
    assert "db01: cannot back up" in str(failed.value)
    assert list(failed.value.failures) == ["db01"]
    assert failed.value.exit_code == IncompleteError.exit_code == 3
    assert restored(pair.repository, made.restore_point) == truth(pair.images[1])
    assert (bitmaps(pair.images[0]), len(pair.points()), pair.ledger.debts()) == (old, 3, [])
    pair.vms[0] = replace(pair.vms[0], side_files=())
    reports = pair.back_up_both()
    assert reports[0].disks[0].kept > 0
    assert [restored(pair.repository, it.restore_point) for it in reports] == [truth(image) for image in pair.images]


def test_if_none_can_be_stored_the_first_failure_is_told(pair: Pair) -> None:
    broken = (SideFile("nvram", str(pair.images[0] / "no-directory")),)
    pair.vms = [replace(vm, side_files=broken) for vm in pair.vms]
    with pytest.raises(HostError, match="cannot back up"):
        pair.back_up_both()
    assert (pair.points(), pair.ledger.debts()) == ([], [])
