# SPDX-License-Identifier: Apache-2.0
"""What need not be read again is known only when nothing can have changed it."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.images import ImageInfo, Known, add_bitmap, clean_since, open_image, probe, remove_bitmap, same_stamps
from donjon.model.extent import Extent, Kind
from donjon.model.restore_point import DiskPoint, ImageStamp

MIB = 1024 * 1024


def qemu(*argv: str | Path) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True)


def settled(info: ImageInfo) -> ImageInfo:
    """As it will be probed in 2 s."""
    return replace(info, stamps=tuple(replace(stamp, settled=True) for stamp in info.stamps))


def point(info: ImageInfo, checkpoint: str | None = None) -> DiskPoint:
    return DiskPoint(
        target="vda",
        path="/web/vda/vda.raw",
        size=info.size,
        block_size=512 * 1024,
        source=info.path,
        image_format=info.format,
        image_options=info.options,
        stamps=info.stamps,
        checkpoint=checkpoint,
        had_internal_snapshots=info.internal_snapshots,
    )


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    qemu("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "base", "1M")
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base", tmp_path / "top")
    return tmp_path / "top"


def test_a_file_changed_just_now_is_not_settled(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"1")
    assert not probe(path, "raw").stamps[0].settled
    time.sleep(2.1)
    now = probe(path, "raw").stamps
    assert same_stamps(probe(path, "raw").stamps, now)


def test_a_time_set_back_does_not_hide_a_change(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"1" * 512)
    then = settled(probe(path, "raw"))
    before = path.stat()
    path.write_bytes(b"2" * 512)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not same_stamps(settled(probe(path, "raw")).stamps, then.stamps)


def test_no_stamps_prove_nothing() -> None:
    unsettled = (ImageStamp("/disk", 1, 1, 1, 1, settled=False),)
    assert not same_stamps((), ())
    assert not same_stamps(unsettled, unsettled)


def test_an_untouched_image_is_not_read(overlay: Path) -> None:
    info = settled(probe(overlay))
    assert clean_since(info, point(info)).kind is Known.UNCHANGED
    with open_image(info, unchanged=True) as image:
        assert list(image.extents()) == [Extent(0, MIB, Kind.CLEAN)]
        content = bytearray(b"?" * 512)
        image.read_into(0, memoryview(content))
        assert content == bytes(512)


def test_an_image_that_changed_after_it_was_judged_is_not_taken_for_unchanged(overlay: Path) -> None:
    info = settled(probe(overlay))
    qemu("qemu-io", "-f", "qcow2", "-c", "write 0 64k", overlay)
    with pytest.raises(HostError, match="changed since it was examined"), open_image(info, unchanged=True):
        pass


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_an_image_that_changes_while_it_is_read_is_refused(tmp_path: Path, image_format: str) -> None:
    path = tmp_path / "disk"
    qemu("qemu-img", "create", "-q", "-f", image_format, path, "1M")
    sentence = "cannot back up .*disk: .* changed while it was read"
    with pytest.raises(HostError, match=sentence), open_image(probe(path, image_format)), path.open("r+b") as file:
        file.write(b"X")


def test_a_bitmap_tells_what_changed(overlay: Path) -> None:
    add_bitmap(str(overlay), "since")
    add_bitmap(str(overlay), "since")
    then = point(settled(probe(overlay)), "since")
    qemu("qemu-io", "-f", "qcow2", "-c", "write 0 64k", overlay)
    known = clean_since(settled(probe(overlay)), then)
    assert (known.kind, known.bitmap) == (Known.BITMAP, "since")
    remove_bitmap(str(overlay), "since")
    remove_bitmap(str(overlay), "since")
    known = clean_since(settled(probe(overlay)), then)
    assert known.kind is Known.NOTHING
    assert "gone from the image" in known.reason


def test_a_bitmap_is_worth_nothing_when_the_backing_file_changed(overlay: Path) -> None:
    add_bitmap(str(overlay), "since")
    then = point(settled(probe(overlay)), "since")
    qemu("qemu-io", "-f", "qcow2", "-c", "write 0 64k", overlay.with_name("base"))
    qemu("qemu-io", "-f", "qcow2", "-c", "write 0 64k", overlay)
    known = clean_since(settled(probe(overlay)), then)
    assert known.kind is Known.NOTHING
    assert f"{overlay.with_name('base')} has changed" in known.reason


def test_a_bitmap_is_worth_nothing_when_disabled_in_use_or_over_internal_snapshots(overlay: Path) -> None:
    add_bitmap(str(overlay), "since")
    info = settled(probe(overlay))
    then = replace(point(info, "since"), stamps=(replace(info.stamps[0], mtime_ns=1), *info.stamps[1:]))
    assert clean_since(info, then).kind is Known.BITMAP
    bitmap = info.bitmaps[0]
    for broken, word in [(replace(bitmap, consistent=False), "in use"), (replace(bitmap, enabled=False), "disabled")]:
        known = clean_since(replace(info, bitmaps=(broken,)), then)
        assert (known.kind, word in known.reason) == (Known.NOTHING, True)
    for reverted in (replace(then, had_internal_snapshots=True), replace(then, stamps=())):
        assert clean_since(info, reverted).kind is Known.NOTHING


def test_a_bitmap_whose_writer_was_killed_is_not_trusted(overlay: Path) -> None:
    add_bitmap(str(overlay), "since")
    qemu("bash", "-c", f"qemu-io -f qcow2 -c 'write 0 64k' -c flush -c 'sigraise 9' {overlay} || true")
    (bitmap,) = probe(overlay).bitmaps
    assert not bitmap.consistent


def test_nothing_is_known_of_a_new_resized_or_converted_disk(overlay: Path) -> None:
    info = settled(probe(overlay))
    for since in (None, replace(point(info), size=MIB * 2), replace(point(info), image_format="raw")):
        assert clean_since(info, since).kind is Known.NOTHING


def test_file_times_of_another_boot_prove_nothing(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    now = settled(probe(path, "raw"))
    before_the_reboot = replace(
        point(now), stamps=tuple(replace(stamp, boot_id="another boot") for stamp in now.stamps)
    )
    assert clean_since(now, point(now)).kind is Known.UNCHANGED
    knowledge = clean_since(now, before_the_reboot)
    assert knowledge.kind is Known.NOTHING
    assert "rebooted" in knowledge.reason
