# SPDX-License-Identifier: Apache-2.0
"""What was known of one disk was wrong: then nothing is believed of the VM's other disks, either."""

from __future__ import annotations

from pathlib import Path

from donjon.backup.sample import Sampling
from tests.unit.backup.site import Site, disk, machine, new_qcow2, qemu, qemu_io, truth

COMPARED_WHOLE = Sampling()  # as every disk so small


def test_the_other_disks_are_read_in_full_as_well(tmp_path: Path) -> None:
    images = {}
    for target in ("vda", "vdb"):
        (tmp_path / target).mkdir()
        images[target] = new_qcow2(tmp_path / target)
    site = Site(machine(*(disk(target, image) for target, image in images.items())))
    site.back_up()
    for target, command in (("vda", "write -P 5 0 4k"), ("vdb", "write -P 99 1M 4k")):
        bitmap = site.checkpoint(target) or ""
        if target == "vdb":  # behind the bitmap's back
            qemu("qemu-img", "bitmap", "--disable", "-f", "qcow2", images[target], bitmap)
        qemu_io(images[target], command)
        if target == "vdb":
            qemu("qemu-img", "bitmap", "--enable", "-f", "qcow2", images[target], bitmap)
    vda, vdb = site.back_up(sampling=COMPARED_WHOLE).disks
    assert (vdb.mismatch, vdb.kept) == (True, 0)
    assert (vda.mismatch, vda.kept, vda.read) == (False, 0, vda.size)
    assert vda.reason == "what was known of another disk of the VM turned out to be wrong"
    assert {target: site.restored(target=target) for target in images} == {
        target: truth(image) for target, image in images.items()
    }
