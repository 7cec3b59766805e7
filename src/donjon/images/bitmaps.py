# SPDX-License-Identifier: Apache-2.0
"""Dirty bitmaps kept in qcow2 images: from the moment one is added, QEMU notes in it every block that is written.

Source: QEMU's docs/interop/bitmaps.rst and docs/interop/qcow2.txt, "Bitmaps extension".
"""

from __future__ import annotations

from pathlib import Path

from donjon.errors import HostError
from donjon.host_command import run
from donjon.images.image_info import ImageInfo
from donjon.images.inspection import probe

TIMEOUT_S = 120


def can_have_bitmaps(info: ImageInfo) -> bool:
    """Whether the image keeps bitmaps over the end of QEMU: qcow2 of version 3."""
    return info.format == "qcow2" and info.options.get("compat") != "0.10"


def add_bitmap(path: str | Path, name: str) -> None:
    """Begin to note changes under that name; does nothing if the bitmap is there. Changes the image file.

    Raises:
        HostError: the image cannot have bitmaps, is in use, or cannot be written.
    """
    if name not in _names(path):
        _bitmap("--add", path, name, doing=f"cannot track changes of {path}")


def remove_bitmap(path: str | Path, name: str) -> None:
    """Forget a bitmap; does nothing if there is none of that name. Changes the image file.

    Raises:
        HostError: the image is in use or cannot be written.
    """
    if name in _names(path):
        _bitmap("--remove", path, name, doing=f"cannot remove bitmap {name} from {path}")


def _bitmap(action: str, path: str | Path, name: str, *, doing: str) -> None:
    path = Path(path).absolute()
    done = run(["qemu-img", "bitmap", action, "-f", "qcow2", "--", path, name], timeout_s=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise HostError(f"{doing}: {done.complaint.removeprefix('qemu-img: ')}")


def _names(path: str | Path) -> set[str]:
    return {bitmap.name for bitmap in probe(path, "qcow2").bitmaps}
