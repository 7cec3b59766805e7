# SPDX-License-Identifier: Apache-2.0
"""What every store must do, as a suite of pytest that a store's author inherits and runs.

    class TestMyStore(StoreContract):
        @pytest.fixture
        def make_store(self, tmp_path): return lambda: MyStore(tmp_path)

`make_store()` opens a store on the same place each time; the place is new for each test. Override `put_foreign` and
`secrets` as well: what depends on them is not tested otherwise.
"""

# ruff: noqa: D102  (the name of a test is its sentence)

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from donjon.errors import FileExistsInStoreError, FileMissingError, StoreError
from donjon.repository.store import Buffer, FileInfo, FileName, FileType, Store

NAMED_TYPES = [kind for kind in FileType if kind is not FileType.CONFIG]
CONFIG = FileName(FileType.CONFIG)
MIB = 1024 * 1024


def file_of(content: bytes, type: FileType = FileType.PACK) -> FileName:
    """The name that a repository would give the content."""
    return FileName(type, hashlib.sha256(content).hexdigest())


class InterruptedContent:
    """Content whose second buffer cannot be made."""

    def __iter__(self) -> Iterator[Buffer]:
        yield b"first"
        raise KeyError("second")


class StoreContract:
    """Inherit it, and give it the fixture `make_store`."""

    @pytest.fixture
    def put_foreign(self) -> Callable[[FileType, str], None] | None:
        """Override: puts a file that is not the repository's where files of a type are, behind the store's back."""
        return None

    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        """Override: what `make_store` was told in confidence."""
        return ()

    @pytest.fixture
    def store(self, make_store: Callable[[], Store]) -> Store:
        """A store made ready."""
        store = make_store()
        store.create()
        return store

    @pytest.mark.parametrize("type", NAMED_TYPES)
    def test_gives_back_what_it_was_given(self, store: Store, type: FileType) -> None:
        file = file_of(b"content", type)
        store.save(file, [b"content"])
        assert store.load(file) == b"content"
        assert store.size(file) == 7
        assert list(store.list(type)) == [FileInfo(file.name, 7)]

    def test_keeps_the_config_which_has_no_name(self, store: Store) -> None:
        store.save(CONFIG, [b"config"])
        assert (store.load(CONFIG), store.size(CONFIG)) == (b"config", 6)
        assert list(store.list(FileType.CONFIG)) == []
        store.delete(CONFIG)
        with pytest.raises(FileMissingError):
            store.load(CONFIG)

    def test_keeps_types_apart(self, store: Store) -> None:
        for kind in NAMED_TYPES:
            store.save(file_of(b"same", kind), [b"same"])
        store.delete(file_of(b"same", FileType.INDEX))
        assert [kind for kind in NAMED_TYPES if not list(store.list(kind))] == [FileType.INDEX]

    def test_a_new_store_is_empty(self, store: Store) -> None:
        assert [info for kind in FileType for info in store.list(kind)] == []

    def test_creating_again_keeps_what_is_there(self, store: Store) -> None:
        store.save(file_of(b"kept"), [b"kept"])
        store.create()
        assert store.load(file_of(b"kept")) == b"kept"

    def test_another_opening_sees_what_was_saved(self, store: Store, make_store: Callable[[], Store]) -> None:
        store.save(file_of(b"kept"), [b"kept"])
        assert make_store().load(file_of(b"kept")) == b"kept"

    def test_joins_buffers_of_every_kind_in_order(self, store: Store) -> None:
        whole = bytes(range(256))
        buffers: list[Buffer] = [whole[:10], b"", bytearray(whole[10:90]), memoryview(whole)[90:200], whole[200:]]
        store.save(file_of(whole), buffers)
        assert store.load(file_of(whole)) == whole

    def test_joins_thousands_of_buffers(self, store: Store) -> None:
        buffers = [bytes([number % 251]) * (number % 7) for number in range(5000)]
        whole = b"".join(buffers)
        store.save(file_of(whole), buffers)
        assert store.load(file_of(whole)) == whole

    def test_measures_buffers_of_wide_items_in_bytes(self, store: Store) -> None:
        wide = memoryview(bytes(range(16))).cast("I")
        store.save(file_of(wide.tobytes()), [wide])
        assert store.load(file_of(wide.tobytes())) == bytes(range(16))

    def test_keeps_an_empty_file(self, store: Store) -> None:
        store.save(file_of(b""), [])
        assert (store.load(file_of(b"")), store.size(file_of(b""))) == (b"", 0)
        assert list(store.list(FileType.PACK)) == [FileInfo(file_of(b"").name, 0)]

    def test_keeps_a_file_of_20_mib(self, store: Store) -> None:
        content = random.Random(1).randbytes(20 * MIB)  # noqa: S311  (a test's data)
        view = memoryview(content)
        store.save(file_of(content), [view[start : start + MIB + 1] for start in range(0, len(content), MIB + 1)])
        assert store.size(file_of(content)) == 20 * MIB
        assert store.load(file_of(content)) == content
        assert store.load(file_of(content), 7 * MIB - 3, 2 * MIB + 5) == content[7 * MIB - 3 : 9 * MIB + 2]

    def test_does_not_keep_the_buffers_it_was_given(self, store: Store) -> None:
        buffer = bytearray(b"before")
        store.save(file_of(b"before"), [buffer])
        buffer[:] = b"after!"
        assert store.load(file_of(b"before")) == b"before"

    @pytest.mark.parametrize("file", [file_of(b"first", kind) for kind in NAMED_TYPES] + [CONFIG], ids=str)
    def test_never_replaces_a_file(self, store: Store, file: FileName) -> None:
        store.save(file, [b"first"])
        with pytest.raises(FileExistsInStoreError):
            store.save(file, [b"other!"])
        assert store.load(file) == b"first"

    def test_keeps_nothing_of_a_save_that_failed(self, store: Store) -> None:
        file = file_of(b"firstsecond")
        with pytest.raises(KeyError):
            store.save(file, InterruptedContent())
        assert list(store.list(FileType.PACK)) == []
        with pytest.raises(FileMissingError):
            store.load(file)
        store.save(file, [b"first", b"second"])
        assert store.load(file) == b"firstsecond"

    @pytest.mark.parametrize(("offset", "length"), [(0, 10), (0, 0), (3, 4), (9, 1), (10, 0), (0, None), (4, None)])
    def test_loads_a_range(self, store: Store, offset: int, length: int | None) -> None:
        store.save(file_of(b"0123456789"), [b"0123456789"])
        end = None if length is None else offset + length
        assert store.load(file_of(b"0123456789"), offset, length) == b"0123456789"[offset:end]

    @pytest.mark.parametrize(("offset", "length"), [(0, 11), (9, 2), (10, 1), (11, 0), (11, None), (2**32, 2**32)])
    def test_refuses_a_range_behind_the_end(self, store: Store, offset: int, length: int | None) -> None:
        store.save(file_of(b"0123456789"), [b"0123456789"])
        with pytest.raises(StoreError) as refused:
            store.load(file_of(b"0123456789"), offset, length)
        assert not isinstance(refused.value, FileMissingError)

    @pytest.mark.parametrize("type", NAMED_TYPES)
    def test_says_which_file_is_missing(self, store: Store, type: FileType) -> None:
        missing = file_of(b"missing", type)
        with pytest.raises(FileMissingError, match=missing.name):
            store.load(missing)
        with pytest.raises(FileMissingError, match=missing.name):
            store.size(missing)

    def test_deletes_one_file_and_only_it(self, store: Store) -> None:
        for content in (b"kept", b"deleted"):
            store.save(file_of(content), [content])
        store.delete(file_of(b"deleted"))
        store.delete(file_of(b"deleted"))
        assert [info.name for info in store.list(FileType.PACK)] == [file_of(b"kept").name]
        with pytest.raises(FileMissingError):
            store.load(file_of(b"deleted"))

    def test_a_deleted_file_can_be_saved_again(self, store: Store) -> None:
        for _ in range(2):
            store.save(file_of(b"again"), [b"again"])
            assert store.load(file_of(b"again")) == b"again"
            store.delete(file_of(b"again"))

    def test_files_may_be_deleted_while_they_are_listed(self, store: Store) -> None:
        files = {file_of(bytes([number])) for number in range(50)}
        for file in files:
            store.save(file, [b"x"])
        for info in store.list(FileType.PACK):
            store.delete(FileName(FileType.PACK, info.name))
            files.remove(FileName(FileType.PACK, info.name))
        assert files == set()

    @pytest.mark.parametrize("type", NAMED_TYPES)
    def test_listing_skips_what_is_not_the_repository_s(
        self, store: Store, type: FileType, put_foreign: Callable[[FileType, str], None] | None
    ) -> None:
        if put_foreign is None:
            pytest.skip("this suite cannot put foreign files into the store")
        file = file_of(b"ours", type)
        store.save(file, [b"ours"])
        for name in ("README", f"{file.name}-tmp-1a2b3c4d", file.name[:63], "A" * 64, "g" * 64, "٣" * 64):
            put_foreign(type, name)
        assert list(store.list(type)) == [FileInfo(file.name, 4)]

    @pytest.mark.parametrize("name", ["", "..", "../config", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n"])
    def test_refuses_a_name_that_no_repository_file_has(self, store: Store, name: str) -> None:
        for use in (store.load, store.size, store.delete, lambda file: store.save(file, [b"forged"])):
            with pytest.raises(StoreError):
                use(FileName(FileType.PACK, name))

    def test_eight_threads_save_at_once(self, store: Store) -> None:
        contents = [str(number).encode() * 1000 for number in range(200)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda content: store.save(file_of(content), [content]), contents))
        assert {info.name for info in store.list(FileType.PACK)} == {file_of(content).name for content in contents}
        assert all(store.load(file_of(content)) == content for content in contents)

    def test_of_threads_that_save_the_same_name_one_wins(self, store: Store) -> None:
        start = Barrier(8)

        def save(number: int) -> int | None:
            start.wait()
            try:
                store.save(CONFIG, [bytes([number]) * 1000] * 100)
            except FileExistsInStoreError:
                return None
            return number

        with ThreadPoolExecutor(8) as threads:
            winners = [number for number in threads.map(save, range(8)) if number is not None]
        assert len(winners) == 1
        assert store.load(CONFIG) == bytes(winners) * 100_000

    def test_a_listed_file_is_whole(self, store: Store) -> None:
        contents = [bytes([number]) * 300_000 for number in range(40)]
        with ThreadPoolExecutor(2) as threads:
            saving = [threads.submit(store.save, file_of(content), [content]) for content in contents]
            while not all(saved.done() for saved in saving):
                assert {info.size for info in store.list(FileType.PACK)} <= {300_000}
            assert [saved.exception() for saved in saving] == [None] * 40

    def test_says_where_it_is_without_a_secret(self, store: Store, secrets: tuple[str, ...]) -> None:
        assert store.location
        with pytest.raises(StoreError) as refused:
            store.load(file_of(b"missing"))
        said = f"{store.location} {refused.value} {refused.value.hint}"
        assert [secret for secret in secrets if secret in said] == []
