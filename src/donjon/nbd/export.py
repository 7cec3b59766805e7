# SPDX-License-Identifier: Apache-2.0
"""What an NBD server needs to know of a disk to export it: the protocol that exports follow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

ALLOCATION = "base:allocation"
"""The context whose flags are protocol.Allocation."""


class Export(Protocol):
    """A disk; several threads use it at once. Its methods raise DonjonError or OSError."""

    @property
    def size(self) -> int:
        """In bytes; does not change."""

    @property
    def read_only(self) -> bool:
        """Whether nobody may write to it; otherwise it is a WritableExport."""

    @property
    def contexts(self) -> tuple[str, ...]:
        """What `block_status` can tell about, as "base:allocation"; may be empty."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the disk's bytes from there on; never asked for bytes beyond the end."""

    def block_status(self, context: str, offset: int, length: int) -> Iterable[tuple[int, int]]:
        """Length and flags of consecutive stretches from `offset` on.

        They cover at least the first byte, and may end before `length` bytes or go beyond them.
        """


class WritableExport(Export, Protocol):
    """A disk that can be written to."""

    def write(self, offset: int, buffer: memoryview) -> None:
        """Write at that offset; durable only after `flush`."""

    def flush(self) -> None:
        """Make durable what was written."""
