# SPDX-License-Identifier: Apache-2.0
"""Bytes that may become many: in memory while few, in a temporary file without a name after that."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Self

from donjon.errors import HostError

Buffer = bytes | bytearray | memoryview

_IN_MEMORY = 4 << 20
_PART = 1 << 20


class Spool:
    """A byte string that only grows. One thread appends; afterwards any number may read.

    The file, if it comes to one, is made where TMPDIR says, and is gone when it is closed or the process ends.
    """

    def __init__(self) -> None:
        self._tail = bytearray()
        self._file: IO[bytes] | None = None
        self._in_file = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return self._in_file + len(self._tail)

    def append(self, data: Buffer) -> None:
        """Add bytes at the end.

        Raises:
            HostError: the temporary file cannot be written.
        """
        self._tail += data
        if len(self._tail) > _IN_MEMORY:
            self._spill()

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="donjon-", buffering=0)  # noqa: SIM115 (closed by `close`)
            view = memoryview(self._tail)
            while view:
                written = os.pwrite(self._file.fileno(), view, self._in_file)
                self._in_file += written
                view = view[written:]
            view.release()
        except OSError as error:
            raise HostError(
                f"cannot write a temporary file in {tempfile.gettempdir()}: {error.strerror}",
                hint="free space there, or set TMPDIR to a folder that has some",
            ) from error
        self._tail = bytearray()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on; fewer than `length` only at the end."""
        end = min(offset + length, len(self))
        parts = []
        while offset < min(end, self._in_file):
            assert self._file is not None
            parts.append(os.pread(self._file.fileno(), min(end, self._in_file) - offset, offset))
            offset += len(parts[-1])
        if offset < end:
            parts.append(bytes(self._tail[offset - self._in_file : end - self._in_file]))
        return b"".join(parts)

    def parts(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes of [start, end) in order, a piece at a time."""
        end = len(self) if end is None else end
        for offset in range(start, end, _PART):
            yield self.read(offset, min(_PART, end - offset))

    def close(self) -> None:
        """Give the bytes up."""
        self._tail = bytearray()
        if self._file is not None:
            self._file.close()
            self._file = None
        self._in_file = 0
