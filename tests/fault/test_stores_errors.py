# SPDX-License-Identifier: Apache-2.0
"""Whatever call of the system fails, a local store says so and keeps nothing that is not whole."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from donjon.errors import FileExistsInStoreError, FileMissingError, StoreError
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.local import LocalStore
from donjon.testing.faults import Faults

CONTENT = [b"first", b"second"]
PACK = FileName(FileType.PACK, hashlib.sha256(b"firstsecond").hexdigest())
CONFIG = FileName(FileType.CONFIG)

ERRORS = [
    (errno.ENOSPC, "is full"),
    (errno.EDQUOT, "quota"),
    (errno.EROFS, "read-only"),
    (errno.EACCES, "permission denied"),
    (errno.EIO, "input/output error"),
    (errno.ENOTDIR, "not a directory"),
    (errno.ESTALE, "network file system"),
    (errno.EMFILE, "too many files are open"),
    (errno.EFBIG, "File too large"),
]


def failure(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class NoHardLinks:
    """The calls of `os` on a file system that knows no hard links, as FAT."""

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def link(self, path: Path, new: Path) -> None:
        raise failure(errno.EOPNOTSUPP)


def temporary_files(root: Path) -> list[Path]:
    return list(root.glob("**/*-tmp-*"))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    store.create()
    return store


@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
@pytest.mark.parametrize("system", [os, NoHardLinks()], ids=["hard links", "none"])
def test_every_call_of_a_save_can_fail(store: LocalStore, tmp_path: Path, system: object, after: bool) -> None:
    counting = Faults(system, 0, OSError())
    LocalStore(tmp_path, counting).save(PACK, CONTENT)
    failed = 0
    for number in range(1, counting.calls + 1):
        store.delete(PACK)
        try:
            LocalStore(tmp_path, Faults(system, number, failure(errno.EIO), after=after)).save(PACK, CONTENT)
        except StoreError:
            failed += 1
            assert list(store.list(FileType.PACK)) == []
            assert len(temporary_files(tmp_path)) == 0
            store.save(PACK, CONTENT)
        assert store.load(PACK) == b"firstsecond"
        for left in temporary_files(tmp_path):  # only where removing it is what failed
            left.unlink()
    assert failed >= 8


@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.load(PACK),
        lambda store: store.size(PACK),
        lambda store: list(store.list(FileType.PACK)),
        lambda store: store.delete(PACK),
    ],
    ids=["load", "size", "list", "delete"],
)
def test_every_other_call_can_fail(
    store: LocalStore, tmp_path: Path, use: Callable[[LocalStore], object], after: bool
) -> None:
    store.save(PACK, CONTENT)
    counting = Faults(os, 0, OSError())
    use(LocalStore(tmp_path, counting))
    for number in range(1, counting.calls + 1):
        with suppress(FileExistsInStoreError):
            store.save(PACK, CONTENT)
        with pytest.raises(StoreError) as failed:
            use(LocalStore(tmp_path, Faults(os, number, failure(errno.EIO), after=after)))
        assert not isinstance(failed.value, FileMissingError)


@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
@pytest.mark.parametrize("call", ["mkdir", "open", "fsync", "close"])
def test_making_a_store_can_fail_and_be_tried_again(tmp_path: Path, call: str, after: bool) -> None:
    root = tmp_path / "backups" / "ours"
    with pytest.raises(StoreError):
        LocalStore(root, Faults(os, 4, failure(errno.EIO), after=after, only={call})).create()
    store = LocalStore(root)
    store.create()
    store.save(PACK, CONTENT)
    assert store.load(PACK) == b"firstsecond"


@pytest.mark.parametrize(("code", "words"), ERRORS, ids=[errno.errorcode[code] for code, _ in ERRORS])
def test_says_what_is_wrong_and_what_to_do(store: LocalStore, tmp_path: Path, code: int, words: str) -> None:
    failing = LocalStore(tmp_path, Faults(os, 1, failure(code), only={"writev"}))
    with pytest.raises(StoreError, match=f"^cannot save {PACK}: .*{words}") as failed:
        failing.save(PACK, CONTENT)
    assert failed.value.hint
    assert list(store.list(FileType.PACK)) == []
    assert temporary_files(tmp_path) == []


def test_writes_all_though_the_system_takes_a_byte_at_a_time(store: LocalStore, tmp_path: Path) -> None:
    class Slow:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def writev(self, descriptor: int, buffers: list[memoryview]) -> int:
            return os.write(descriptor, buffers[0][:1])

        def pread(self, descriptor: int, length: int, offset: int) -> bytes:
            return os.pread(descriptor, min(length, 1), offset)

    slow = LocalStore(tmp_path, Faults(Slow(), 0, OSError()))
    slow.save(PACK, CONTENT)
    assert store.load(PACK) == b"firstsecond"
    assert slow.load(PACK, 3, 5) == b"stsec"


def test_a_file_that_is_cut_while_it_is_read_is_an_error(store: LocalStore, tmp_path: Path) -> None:
    store.save(PACK, CONTENT)
    path = tmp_path / "data" / PACK.name[:2] / PACK.name
    cutting = Faults(os, 1, lambda: os.truncate(path, 4), only={"pread"})
    with pytest.raises(StoreError, match="before 11"):
        LocalStore(tmp_path, cutting).load(PACK)


def test_a_store_that_is_not_there_has_nothing_and_takes_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "unmounted")
    assert list(store.list(FileType.PACK)) == []
    store.delete(PACK)
    with pytest.raises(FileMissingError):
        store.load(CONFIG)
    for file in (PACK, CONFIG):
        with pytest.raises(StoreError, match="no such file") as failed:
            store.save(file, CONTENT)
        assert not isinstance(failed.value, FileMissingError)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_store_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StoreError, match="not a directory"):
        LocalStore(tmp_path / "file").create()
    with pytest.raises(StoreError, match="not a directory"):
        LocalStore(tmp_path / "file" / "below").create()
    assert (tmp_path / "file").read_text() == "precious"


def test_a_pack_directory_that_is_missing_is_made(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "data" / PACK.name[:2]).rmdir()
    assert list(store.list(FileType.PACK)) == []
    store.delete(PACK)
    LocalStore(tmp_path).save(PACK, CONTENT)
    assert store.load(PACK) == b"firstsecond"


def test_what_is_in_the_wrong_pack_directory_is_not_listed(store: LocalStore, tmp_path: Path) -> None:
    store.save(PACK, CONTENT)
    other = f"{int(PACK.name[:2], 16) ^ 1:02x}"
    (tmp_path / "data" / PACK.name[:2] / PACK.name).rename(tmp_path / "data" / other / PACK.name)
    assert list(store.list(FileType.PACK)) == []


@pytest.mark.parametrize(("config_mode", "file_mode", "directory_mode"), [(0o400, 0o400, 0o700), (0o440, 0o440, 0o750)])
def test_who_may_read_the_config_may_read_the_rest(
    tmp_path: Path, config_mode: int, file_mode: int, directory_mode: int
) -> None:
    store = LocalStore(tmp_path)
    umask = os.umask(0o077)
    try:
        store.create()
        store.save(CONFIG, CONTENT)
        (tmp_path / "config").chmod(config_mode)
        (tmp_path / "data" / PACK.name[:2]).rmdir()
        LocalStore(tmp_path).save(PACK, CONTENT)
    finally:
        os.umask(umask)
    path = tmp_path / "data" / PACK.name[:2] / PACK.name
    assert stat.S_IMODE(path.stat().st_mode) == file_mode
    assert stat.S_IMODE(path.parent.stat().st_mode) == directory_mode


def test_only_what_dead_writers_left_is_swept(store: LocalStore, tmp_path: Path) -> None:
    store.save(PACK, CONTENT)
    store.save(CONFIG, CONTENT)
    old = [tmp_path / "config-tmp-123", tmp_path / "data" / "00" / f"{PACK.name}-tmp-9f"]
    young = tmp_path / "index" / f"{PACK.name}-tmp-9f"
    foreign = tmp_path / "index" / "notes-tmp-9f"
    for path in (*old, young, foreign):
        path.write_bytes(b"half")
    for path in (*old, foreign, tmp_path / "config", tmp_path / "data" / PACK.name[:2] / PACK.name):
        os.utime(path, (0, 0))
    assert store.sweep_temporary() == 2
    assert not any(path.exists() for path in old)
    assert young.exists()
    assert foreign.exists()
    assert (store.load(PACK), store.load(CONFIG)) == (b"firstsecond", b"firstsecond")
