# SPDX-License-Identifier: Apache-2.0
"""A store in memory: for tests, and for repositories that need not outlive the process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from threading import Lock

from donjon.errors import FileExistsInStoreError, FileMissingError, StoreError
from donjon.repository.store import Buffer, FileInfo, FileName, FileType
from donjon.repository.stores.names import check_name, is_id


class MemoryStore:
    """Keeps files in `files`, which a test may damage as it likes."""

    def __init__(self) -> None:
        self.files: dict[FileName, bytes] = {}
        self._lock = Lock()

    @property
    def location(self) -> str:
        """Where it is, for messages."""
        return "memory"

    def create(self) -> None:
        """Memory is always ready."""

    def save(self, file: FileName, content: Iterable[Buffer]) -> None:
        """Keep a copy of the file; see Store."""
        check_name(file)
        data = b"".join(content)
        with self._lock:
            if file in self.files:
                raise FileExistsInStoreError(f"cannot save {file}: it exists already")
            self.files[file] = data

    def load(self, file: FileName, offset: int = 0, length: int | None = None) -> bytes:
        """A range of the file; see Store."""
        data = self._content(file)
        end = max(offset, len(data)) if length is None else offset + length
        if end > len(data):
            raise StoreError(f"cannot read {file}: it ends at byte {len(data)}, before {end}")
        return data[offset:end]

    def size(self, file: FileName) -> int:
        """In bytes; see Store."""
        return len(self._content(file))

    def list(self, type: FileType) -> Iterator[FileInfo]:
        """The files of a type, as they are at this moment."""
        with self._lock:
            files = [*self.files.items()]
        return (FileInfo(file.name, len(data)) for file, data in files if file.type is type and is_id(file.name))

    def delete(self, file: FileName) -> None:
        """Remove a file; succeeds if it is not there."""
        check_name(file)
        with self._lock:
            self.files.pop(file, None)

    def _content(self, file: FileName) -> bytes:
        check_name(file)
        with self._lock:
            if file not in self.files:
                raise FileMissingError(f"cannot read {file}: there is no such file")
            return self.files[file]
