# SPDX-License-Identifier: Apache-2.0
"""What is inside guests and gold images, read from their disks without mounting them."""

from __future__ import annotations

from msgspec import Struct


class Guest(Struct, frozen=True):
    """What a guest's disk says of it."""


class Gold(Struct, frozen=True):
    """A gold image, its seal, and what is inside."""

    path: str
