# SPDX-License-Identifier: Apache-2.0
"""The few calls of the operating system that a store makes; the module `os` is one that really makes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class System(Protocol):
    """Each call is that of `os`, and raises OSError as it does."""

    def open(self, path: Path, flags: int, mode: int, /) -> int:
        """A new file descriptor."""
        ...

    def close(self, descriptor: int, /) -> None:
        """Give a descriptor back."""
        ...

    def writev(self, descriptor: int, buffers: Sequence[memoryview], /) -> int:
        """Write at the descriptor's position; returns how many bytes went, perhaps fewer than asked."""
        ...

    def pread(self, descriptor: int, length: int, offset: int, /) -> bytes:
        """Up to `length` bytes from `offset`; fewer at the end of the file."""
        ...

    def fsync(self, descriptor: int, /) -> None:
        """Make a file's bytes, or a directory's entries, durable."""
        ...

    def chmod(self, path: Path | int, mode: int, /) -> None:
        """Set the permissions of a path or an open file."""
        ...

    def stat(self, path: Path | int, /) -> os.stat_result:
        """What is known of a path or an open file."""
        ...

    def listdir(self, path: Path, /) -> list[str]:
        """The names in a directory."""
        ...

    def mkdir(self, path: Path, mode: int, /) -> None:
        """Make one directory."""
        ...

    def link(self, path: Path, new: Path, /) -> None:
        """Give a file a second name; FileExistsError if the name is taken."""
        ...

    def rename(self, path: Path, new: Path, /) -> None:
        """Give a file another name, replacing what has that name."""
        ...

    def unlink(self, path: Path, /) -> None:
        """Take a name from a file."""
        ...
