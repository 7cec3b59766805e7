# SPDX-License-Identifier: Apache-2.0
"""Every store of donjon keeps the contract of stores."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from donjon.repository.store import FileName, FileType
from donjon.repository.stores.local import LocalStore
from donjon.repository.stores.memory import MemoryStore
from donjon.testing.faults import Faults
from donjon.testing.store_contract import StoreContract


class TestLocalStore(StoreContract):
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "backups" / "ours"

    @pytest.fixture
    def make_store(self, root: Path) -> Callable[[], LocalStore]:
        return lambda: LocalStore(root)

    @pytest.fixture
    def put_foreign(self, root: Path) -> Callable[[FileType, str], None]:
        def put(type: FileType, name: str) -> None:
            directory = root / type.value
            if type is FileType.PACK:
                (directory / name).write_bytes(b"foreign")
                directory /= next(iter(directory.glob("*/" + "[0-9a-f]" * 64))).parent.name
            (directory / name).write_bytes(b"foreign")

        return put


class _NoHardLinks:
    """The calls of `os` on a file system that knows no hard links, as FAT."""

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def link(self, path: Path, new: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def rename(self, path: Path, new: Path) -> None:
        time.sleep(0.001)  # long enough for another thread to come in between, if it may
        os.rename(path, new)


class TestLocalStoreWithoutHardLinks(TestLocalStore):
    @pytest.fixture
    def make_store(self, root: Path) -> Callable[[], LocalStore]:
        # One store for all: without links, two processes that save the same name at once are not told apart.
        store = LocalStore(root, Faults(_NoHardLinks(), 0, ValueError()))
        return lambda: store


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def memory(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def make_store(self, memory: MemoryStore) -> Callable[[], MemoryStore]:
        return lambda: memory

    @pytest.fixture
    def put_foreign(self, memory: MemoryStore) -> Callable[[FileType, str], None]:
        def put(type: FileType, name: str) -> None:
            memory.files[FileName(type, name)] = b"foreign"

        return put
