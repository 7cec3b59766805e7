# SPDX-License-Identifier: Apache-2.0
"""What is known of an image's changes since a restore point, and why no more is: in doubt, nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from donjon.images.bitmaps import can_have_bitmaps
from donjon.images.image_info import Bitmap, ImageInfo
from donjon.images.stamps import changed_files, rebooted, same_stamps
from donjon.model.restore_point import DiskPoint

_NEW = "there is no earlier restore point of this disk"
_NO_BITMAP = "no bitmap was begun at the last restore point"


class Known(Enum):
    """How much is known."""

    UNCHANGED = "unchanged"
    BITMAP = "bitmap"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Knowledge:
    """`reason` is a sentence for the operator; `bitmap` is the name of the one that tells (BITMAP only)."""

    kind: Known
    reason: str
    bitmap: str | None = None


def clean_since(info: ImageInfo, since: DiskPoint | None, beside: Sequence[DiskPoint] = ()) -> Knowledge:
    """Judge what need not be read again, as the image stood when it was probed.

    UNCHANGED: no file of the chain has changed; the whole disk is as it was. BITMAP: the image's own record of changes
    began at the restore point and has missed none, and nothing behind the image has changed.

    What this cannot see: a clock that is set back to the very tick of an earlier change, and somebody who clears our
    bitmap, or disables it, writes, and enables it again: qcow2 keeps no trace of that. Nor does it of an image that was
    overwritten, in place, with a copy of another disk of the VM and its bitmap.

    Args:
        info: of the image now.
        since: the disk in the restore point to build upon; None: there is none.
        beside: the other disks of that restore point. Their bitmaps may have the same name.
    """
    if since is None:
        return _nothing(_NEW)
    if problem := _problem_of_kind(info, since):
        return _nothing(problem)
    if same_stamps(info.stamps, since.stamps):
        return Knowledge(Known.UNCHANGED, "no file of the image has changed since the last restore point")
    if info.format != "qcow2":
        return _nothing(_doubt_about(info, since))
    return _bitmap_since(info, since, beside)


def tracked_since(info: ImageInfo, since: DiskPoint | None, beside: Sequence[DiskPoint] = ()) -> Knowledge:
    """Judge what need not be read again of an image that a running guest has open, as far as can be told from outside.

    BITMAP: what its bitmap does not call dirty is clean, if it is there and whole, which only the guest's QEMU knows.

    Args:
        info: of the image now.
        since: as for `clean_since`.
        beside: as for `clean_since`.
    """
    if since is None:
        return _nothing(_NEW)
    if problem := _problem_of_kind(info, since):
        return _nothing(problem)
    if not can_have_bitmaps(info):
        version = " of version 2" if info.format == "qcow2" else ""
        return _nothing(f"the guest writes to the image, and {info.format} images{version} keep no record of changes")
    if since.checkpoint is None:
        return _nothing(_NO_BITMAP)
    if problem := _problem_of_place(info, since, beside) or _problem_behind(info, since):
        return _nothing(problem)
    return Knowledge(Known.BITMAP, "the bitmap kept by the running guest tells what has changed", since.checkpoint)


def _problem_of_kind(info: ImageInfo, since: DiskPoint) -> str | None:
    if info.size != since.size:
        return f"the disk was resized from {since.size} to {info.size} bytes"
    if info.format != since.image_format:
        return f"the image was {since.image_format} and is {info.format} now"
    return None


def _doubt_about(info: ImageInfo, since: DiskPoint) -> str:
    """Why an image without bitmaps is not known to be unchanged."""
    if any(stamp.inode == 0 for stamp in info.stamps):
        return "the image is a device, on which changes do not show"
    if not since.stamps or changed_files(info.stamps, since.stamps):
        return f"the image has changed, and {info.format} images keep no record of what changed"
    if rebooted(info.stamps, since.stamps):
        return "the host was rebooted since the last restore point, which file times need not survive"
    return "the image was written too shortly before the last restore point to tell"


def _bitmap_since(info: ImageInfo, since: DiskPoint, beside: Sequence[DiskPoint]) -> Knowledge:
    if since.checkpoint is None:
        return _nothing(f"the image has changed, and {_NO_BITMAP}")
    bitmap = next((bitmap for bitmap in info.bitmaps if bitmap.name == since.checkpoint), None)
    if problem := _problem_of(bitmap) or _problem_of_place(info, since, beside) or _problem_behind(info, since):
        return _nothing(problem)
    return Knowledge(Known.BITMAP, "the image's bitmap tells what has changed", since.checkpoint)


def _problem_of(bitmap: Bitmap | None) -> str | None:
    if bitmap is None:
        return "the bitmap begun at the last restore point is gone from the image"
    if not bitmap.consistent:
        return "the bitmap is marked as in use: the guest runs, or its QEMU did not end in an orderly way"
    if not bitmap.enabled:
        return "the bitmap was disabled and may have missed changes"
    return None


def _problem_of_place(info: ImageInfo, since: DiskPoint, beside: Sequence[DiskPoint]) -> str | None:
    """Why the bitmap could be another disk's: those that began together share a name, and disks can change places."""
    alike = [other for other in beside if other.checkpoint == since.checkpoint]
    if not alike:
        return None
    now, then = info.stamps[0], since.stamps[0] if since.stamps else None
    if then is None or now.path != then.path:
        return "the image is not where it was, and may have been that of another disk"
    for other in alike:
        if now.inode != then.inode and other.stamps and now.inode == other.stamps[0].inode:
            return f"the image was that of {other.target}"
    return None


def _problem_behind(info: ImageInfo, since: DiskPoint) -> str | None:
    """Why the bitmap is not the whole truth: content of the disk could have changed without a write to it."""
    if since.had_internal_snapshots:
        return "the image had internal snapshots, and going back to one does not show in a bitmap"
    if len(info.chain[0].files) > 1:
        return "the image keeps its data in another file, which can be changed without the bitmap"
    behind, behind_then = info.stamps[1:], since.stamps[1:]
    if not since.stamps or len(behind) != len(behind_then):
        return "the chain of backing files is another one"
    if changed := changed_files(behind, behind_then):
        return f"the backing file {changed[0]} has changed"
    if behind and not same_stamps(behind, behind_then):
        return f"a backing file of {info.path} was just written, is no plain file, or the host was rebooted since"
    return None


def _nothing(reason: str) -> Knowledge:
    return Knowledge(Known.NOTHING, reason)
