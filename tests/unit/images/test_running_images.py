# SPDX-License-Identifier: Apache-2.0
"""Of an image that a running guest has open, what can be told from outside: rather too little than too much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from donjon.images.image_info import ImageInfo, ImageLayer
from donjon.images.knowledge import Known, tracked_since
from donjon.model.restore_point import DiskPoint, ImageStamp

MIB = 1 << 20
TOP = ImageStamp("/vm/top", 1, 1, 1, 1, settled=False, boot_id="now")
BASE = ImageStamp("/vm/base", 2, 1, 1, 1, settled=True, boot_id="now")
CHAIN = (ImageLayer("/vm/top", "qcow2", ("/vm/top",)), ImageLayer("/vm/base", "qcow2", ("/vm/base",)))
NOW = ImageInfo("/vm/top", "qcow2", 8 * MIB, CHAIN, (TOP, BASE), {"compat": "1.1"})
THEN = DiskPoint("vda", "/web/vda/vda.raw", 8 * MIB, 512 << 10, "/vm/top", "qcow2", {}, (TOP, BASE), "donjon-1-2")


def test_the_bitmap_of_the_last_restore_point_tells() -> None:
    known = tracked_since(NOW, THEN)
    assert (known.kind, known.bitmap) == (Known.BITMAP, "donjon-1-2")


def test_the_guests_own_writes_do_not_take_the_bitmap_away() -> None:
    written = replace(TOP, mtime_ns=7, ctime_ns=7, size=9)
    assert tracked_since(replace(NOW, stamps=(written, BASE)), THEN).kind is Known.BITMAP


@pytest.mark.parametrize(
    ("now", "then", "reason"),
    [
        (NOW, None, "no earlier restore point"),
        (replace(NOW, size=9 * MIB), THEN, "resized from 8388608 to 9437184"),
        (NOW, replace(THEN, image_format="raw"), "was raw and is qcow2"),
        (replace(NOW, format="raw", chain=CHAIN[:1], stamps=(TOP,)), replace(THEN, image_format="raw"), "raw images"),
        (replace(NOW, options={"compat": "0.10"}), THEN, "qcow2 images of version 2"),
        (NOW, replace(THEN, checkpoint=None), "no bitmap was begun"),
        (NOW, replace(THEN, had_internal_snapshots=True), "internal snapshots"),
        (replace(NOW, chain=CHAIN[:1], stamps=(TOP,)), THEN, "chain of backing files is another"),
        (replace(NOW, stamps=(TOP, replace(BASE, mtime_ns=2))), THEN, "backing file /vm/base has changed"),
        (replace(NOW, stamps=(TOP, replace(BASE, boot_id="later"))), THEN, "rebooted"),
        (NOW, replace(THEN, stamps=()), "chain of backing files is another"),
    ],
)
def test_everything_is_read_where_the_bitmap_may_not_be_the_whole_truth(
    now: ImageInfo, then: DiskPoint | None, reason: str
) -> None:
    known = tracked_since(now, then)
    assert known.kind is Known.NOTHING
    assert known.bitmap is None
    assert reason in known.reason
