# SPDX-License-Identifier: Apache-2.0
"""Disk images, as files and devices: what they are, what has changed in them, reading and writing them."""

from donjon.images.bitmaps import add_bitmap, can_have_bitmaps, remove_bitmap
from donjon.images.image import OpenImage, open_image
from donjon.images.image_info import Bitmap, ImageInfo, ImageLayer
from donjon.images.inspection import probe
from donjon.images.knowledge import Knowledge, Known, clean_since
from donjon.images.locks import in_use
from donjon.images.sink import BlockSink, open_sink, open_stdout_sink
from donjon.images.stamps import same_stamps, stamp_chain

__all__ = [
    "Bitmap",
    "BlockSink",
    "ImageInfo",
    "ImageLayer",
    "Knowledge",
    "Known",
    "OpenImage",
    "add_bitmap",
    "can_have_bitmaps",
    "clean_since",
    "in_use",
    "open_image",
    "open_sink",
    "open_stdout_sink",
    "probe",
    "remove_bitmap",
    "same_stamps",
    "stamp_chain",
]
