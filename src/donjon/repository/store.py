# SPDX-License-Identifier: Apache-2.0
"""Where a repository's files are kept: immutable files, each with a type and a name.

Source: restic design.rst, "Repository Layout".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple, Protocol, runtime_checkable


class FileType(Enum):
    """The kinds of file a repository has; the value is restic's name of the folder."""

    CONFIG = "config"
    KEY = "keys"
    LOCK = "locks"
    SNAPSHOT = "snapshots"
    INDEX = "index"
    PACK = "data"


class FileName(NamedTuple):
    """One file of a repository. `name` is 64 hex digits (the SHA-256 of the content); empty for the config."""

    type: FileType
    name: str = ""

    def __str__(self) -> str:
        return f"{self.type.value}/{self.name}" if self.name else self.type.value


class FileInfo(NamedTuple):
    """A listed file; size in bytes."""

    name: str
    size: int


Buffer = bytes | bytearray | memoryview


class Store(Protocol):
    """Immutable files by type and name. Thread-safe. Every error is a StoreError or one of its kinds."""

    @property
    def location(self) -> str:
        """Where it is, for messages; without any secret."""
        ...

    def create(self) -> None:
        """Make the store ready for a new repository; what is there stays.

        Raises:
            StoreError: the place cannot be made or written.
        """
        ...

    def save(self, file: FileName, content: Iterable[Buffer]) -> None:
        """Keep a file: whole or not at all, and durable (also through a power cut) on return.

        `content` is re-iterable, so that a store that talks to a network can try again.

        Raises:
            FileExistsInStoreError: it is there already; nothing was changed.
            StoreError: it could not be kept; no trace of it is listed.
        """
        ...

    def load(self, file: FileName, offset: int = 0, length: int | None = None) -> bytes:
        """The file's bytes from `offset`, `length` of them (None: to its end).

        Raises:
            FileMissingError: there is no such file.
            StoreError: it cannot be read, or ends before `offset + length`.
        """
        ...

    def size(self, file: FileName) -> int:
        """In bytes. Raises FileMissingError."""
        ...

    def list(self, type: FileType) -> Iterator[FileInfo]:
        """The files of a type, in no order; names that are not 64 hex digits are not repository files and skipped."""
        ...

    def delete(self, file: FileName) -> None:
        """Remove a file; durable on return; succeeds if it is not there."""
        ...


@runtime_checkable
class KeepsLeftovers(Protocol):
    """A store in which writers that died leave files half written; no listing shows them."""

    def leftovers(self) -> Iterator[str]:
        """Their names, for messages."""
        ...

    def sweep_temporary(self) -> int:
        """Remove them; returns how many there were. Raises StoreError."""
        ...
