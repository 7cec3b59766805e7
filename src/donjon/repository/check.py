# SPDX-License-Identifier: Apache-2.0
"""Whether a repository is sound: its files, its index, every restore point, and on demand every byte.

What counts as damage is what restic's `check` takes for it. Unlike restic's, this check does not lock backups out: it
lists the snapshots before it loads the index, and the packs after it, so that whatever a backup adds meanwhile is at
most a pack that no index names yet.

Source: restic internal/checker/checker.go.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

from donjon.errors import DonjonError, IntegrityError, StoreError
from donjon.repository import lock
from donjon.repository.blob_index import BlobIndex
from donjon.repository.check_report import CheckReport, Findings, Place, Problem
from donjon.repository.check_trees import BACK_UP_AGAIN, READ_ALL_PACKS, Suspects, TreeCheck
from donjon.repository.format.blob import PackedBlob, parse_id
from donjon.repository.format.config import decode_config
from donjon.repository.format.crypto import open_sealed
from donjon.repository.format.index_file import IndexedPack, decode_index, packed_blobs
from donjon.repository.format.keyfile import decode_key_file
from donjon.repository.format.pack import header_length
from donjon.repository.format.snapshot import decode_snapshot
from donjon.repository.ordered import map_ordered, worker_count
from donjon.repository.pack_reading import PackVerdict, Subset, read_pack
from donjon.repository.repository import CONFIG, Repository
from donjon.repository.store import FileName, FileType, KeepsLeftovers

_REPAIR_INDEX = "run `donjon repair index`"
_SNAPSHOT_LOST = (
    "copy the file back from a copy of the repository; without one the restore point is lost: delete the file"
)


def check(
    repository: Repository,
    *,
    read_data: Subset | None = None,
    no_lock: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> CheckReport:
    """Examine a repository.

    Args:
        repository: is only read; its own index is left as it is.
        read_data: the packs to read in full; None: none, only the structure is checked.
        no_lock: for storage that cannot be written. A prune that runs meanwhile then looks like damage.
        progress: called with the bytes of packs read so far, and to be read in all.

    Raises:
        RepositoryLockedError: somebody holds it exclusively.
        StoreError: the repository cannot be listed at all.
    """
    with nullcontext() if no_lock else lock.held(repository.files):
        return _Check(repository, progress).run(read_data)


class _Check:
    def __init__(self, repository: Repository, progress: Callable[[int, int], None]) -> None:
        self._findings = Findings()
        self._suspects = Suspects()
        self._index = BlobIndex()
        self._repository = repository.with_index(self._index)
        self._store = repository.store
        self._index_files: list[str] = []
        self._expected: dict[bytes, int] = {}  # sizes of packs, by the index
        self._orphans: frozenset[bytes] = frozenset()  # packs that no index names
        self._progress = _Progress(progress)

    def run(self, read_data: Subset | None) -> CheckReport:
        self._check_config_and_keys()
        snapshots = sorted(info.name for info in self._store.list(FileType.SNAPSHOT))
        self._check_locks()
        self._load_index()
        self._check_packs()
        read = self._read_packs(read_data.choose(self._expected)) if read_data else 0
        trees = self._check_snapshots(snapshots)
        self._check_leftovers()
        return CheckReport(
            errors=_without_vain_advice(self._findings.errors, can_repair=bool(self._orphans)),
            hints=self._findings.hints,
            index_files=len(self._index_files),
            packs=len(self._expected),
            blobs=len(self._index),
            snapshots=len(snapshots),
            trees=trees,
            packs_read=read,
            bytes_read=self._progress.done,
        )

    def _check_config_and_keys(self) -> None:
        try:
            decode_config(open_sealed(self._repository.key, self._store.load(CONFIG)))
        except DonjonError as error:
            self._findings.error(
                CONFIG, str(error), "copy the file back from a copy of the repository: it never changes"
            )
        for info in sorted(self._store.list(FileType.KEY)):
            file = FileName(FileType.KEY, info.name)
            try:
                content = self._store.load(file)
                if hashlib.sha256(content).hexdigest() != info.name:
                    raise IntegrityError(f"cannot read {file}: the file is damaged")
                decode_key_file(content)
            except DonjonError as error:
                self._findings.error(
                    file, str(error), "delete the file and add its password anew (`donjon key add`): no data is touched"
                )

    def _check_locks(self) -> None:
        for name, held in lock.load_locks(self._repository.files):
            if held is None:
                self._findings.hint(
                    FileName(FileType.LOCK, name),
                    "the lock cannot be read, and so keeps everybody out",
                    "if nobody uses the repository, run `donjon unlock --remove-all`",
                )

    def _load_index(self) -> None:
        for name in sorted(info.name for info in self._store.list(FileType.INDEX)):
            try:
                packs = decode_index(self._repository.files.load(FileType.INDEX, name))
                self._index.load(packs)
                sizes = [_expected_size(pack) for pack in packs]
            except DonjonError as error:
                self._findings.error(FileName(FileType.INDEX, name), str(error), _REPAIR_INDEX)
                continue
            self._index_files.append(name)
            for pack, size in sizes:
                self._expect(pack, size)
            for entry in packs:
                if len({blob.type for blob in entry.blobs}) > 1:
                    self._findings.hint(
                        FileName(FileType.PACK, entry.id),
                        "it holds both data and directories, as old versions of restic wrote",
                        "nothing needs to be done: restic's prune sorts them",
                    )

    def _expect(self, pack: bytes, size: int) -> None:
        if pack in self._expected:
            self._findings.hint(
                FileName(FileType.PACK, pack.hex()), "several index files name it", f"{_REPAIR_INDEX} to tidy up"
            )
        # The larger claim: if two parts of a pack's blobs are listed apart, neither is its size.
        self._expected[pack] = max(size, self._expected.get(pack, 0))

    def _check_packs(self) -> None:
        present = {bytes.fromhex(info.name): info.size for info in self._store.list(FileType.PACK)}
        for pack in sorted(self._expected):
            file, expected, size = FileName(FileType.PACK, pack.hex()), self._expected[pack], present.get(pack)
            if size is None:
                self._findings.error(file, "the index names the pack, but it is missing", BACK_UP_AGAIN)
            elif size != expected:
                sentence = f"the pack has {size} bytes where the index asks for {expected}"
                self._findings.error(file, sentence, BACK_UP_AGAIN)
            if size != expected:
                self._suspects.packs.add(pack)
        self._orphans = frozenset(present.keys() - self._expected.keys())
        for pack in sorted(self._orphans):
            self._findings.hint(
                FileName(FileType.PACK, pack.hex()),
                "no index names the pack: an interrupted backup left it, or one that runs is writing it",
                "nothing needs to be done: prune removes it, `donjon repair index` makes use of it",
            )
        self._sizes = present

    def _read_packs(self, chosen: list[bytes]) -> int:
        """Read packs in full; an index file's at a time, so that never the whole index is parsed."""
        wanted = {pack for pack in chosen if pack in self._sizes}
        self._progress.total = sum(self._sizes[pack] for pack in wanted)
        count = len(wanted)
        workers = worker_count()
        with ThreadPoolExecutor(workers, "donjon-check") as executor:
            for name in self._index_files:
                packs = [pack for pack in self._packs_of(name) if pack[0] in wanted]
                wanted.difference_update(pack for pack, _ in packs)
                for verdict in map_ordered(executor, self._read_pack, packs, ahead=workers):
                    self._judge(*verdict)
        return count

    def _packs_of(self, index_file: str) -> Iterator[tuple[bytes, list[PackedBlob]]]:
        for pack in decode_index(self._repository.files.load(FileType.INDEX, index_file)):
            yield parse_id(pack.id), packed_blobs(pack)

    def _read_pack(self, item: tuple[bytes, list[PackedBlob]]) -> tuple[bytes, PackVerdict | StoreError]:
        pack, blobs = item
        try:
            return pack, read_pack(self._repository, pack, self._sizes[pack], blobs, self._progress.add)
        except StoreError as error:
            return pack, error

    def _judge(self, pack: bytes, verdict: PackVerdict | StoreError) -> None:
        file = FileName(FileType.PACK, pack.hex())
        if isinstance(verdict, StoreError):
            self._findings.error(file, str(verdict), "look at the storage, then check again")
            self._suspects.packs.add(pack)
            return
        # Read in full, a pack is no longer suspect as a whole.
        self._suspects.packs.discard(pack)
        self._suspects.blobs.update((pack, blob.offset) for blob in verdict.lost)
        for fault in verdict.faults:
            self._findings.error(file, fault, READ_ALL_PACKS)

    def _check_snapshots(self, names: list[str]) -> int:
        trees = TreeCheck(self._repository, self._findings, self._suspects)
        for name in names:
            file = FileName(FileType.SNAPSHOT, name)
            try:
                root = bytes.fromhex(decode_snapshot(self._repository.files.load(FileType.SNAPSHOT, name)).tree)
            except (DonjonError, ValueError) as error:
                self._findings.error(
                    file,
                    str(error) if isinstance(error, DonjonError) else "its tree is no id",
                    _SNAPSHOT_LOST,
                )
                self._findings.affects(str(file), Place(name, "/"))
                continue
            for fault in trees.examine(root):
                self._findings.affects(fault.what, Place(name, fault.path or "/"))
        return trees.trees

    def _check_leftovers(self) -> None:
        if isinstance(self._store, KeepsLeftovers):
            for name in self._store.leftovers():
                self._findings.hint(name, "a writer that died left it half written", "`donjon repair index` removes it")


class _Progress:
    """Counts bytes for several threads."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self.done = 0
        self.total = 0
        self._tell = tell
        self._guard = threading.Lock()

    def add(self, count: int) -> None:
        with self._guard:
            self.done += count
            self._tell(self.done, self.total)


def _without_vain_advice(errors: tuple[Problem, ...], *, can_repair: bool) -> tuple[Problem, ...]:
    """The same; where a repair of the index finds nothing more, blobs that are in none are lost: it is not advised."""
    if can_repair or any(error.what.startswith(("index/", "data/")) for error in errors):
        return errors
    return tuple(
        replace(error, next_step=_lost_for_good(error)) if error.next_step == BACK_UP_AGAIN else error
        for error in errors
    )


def _lost_for_good(error: Problem) -> str:
    snapshots = " ".join(dict.fromkeys(place.snapshot[:8] for place in error.affected))
    return (
        "back up again: what the source still has is stored anew. What is still missing then cannot be saved; "
        f"`restic forget {snapshots}` removes the restore points that need it"
    )


def _expected_size(pack: IndexedPack) -> tuple[bytes, int]:
    """A pack's id, and its size if the index is right. Raises IntegrityError."""
    blobs = packed_blobs(pack)
    return parse_id(pack.id), sum(blob.length for blob in blobs) + header_length(blobs)
