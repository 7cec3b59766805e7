# SPDX-License-Identifier: Apache-2.0
"""Stock restic tags, copies, rewrites, forgets and prunes what donjon wrote, and donjon goes on with what it leaves."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from donjon.errors import RepositoryLockedError
from donjon.model.extent import Extent, Kind
from donjon.repository.lock import held
from donjon.repository.repository import Repository
from donjon.repository.store import FileType
from donjon.repository.stores.local import LocalStore
from donjon.repository.writer import writing
from tests.interop.conftest import KIB512, Ours, disk_at
from tests.interop.stock_restic import Restic
from tests.unit.repository.disks import PASSWORD, Disk, back_up, load_map, new_repository, restored

pytestmark = pytest.mark.interop


def check_all(repository: Repository, expected: list[tuple[str, bytes]]) -> None:
    """These restore points are there, byte for byte, and no others."""
    found = []
    for name, snapshot in repository.snapshots():
        vm = snapshot.paths[0].strip("/")
        found.append((vm, restored(repository, name, vm, KIB512)))
    assert sorted(found) == sorted(expected)


def test_what_it_tagged_is_still_ours(restic: Restic, ours: Ours) -> None:
    restic.run("tag", "--add", "kept")
    check_all(ours.open(), list(ours.points.values()))
    assert all(snapshot.tags == ["kept"] and snapshot.original for _, snapshot in ours.open().snapshots())
    restic.check()


def test_what_it_copied_is_the_same(restic: Restic, ours: Ours, tmp_path: Path) -> None:
    copy = restic.at(tmp_path / "copy")
    copy.run("init")
    if restic.version < (0, 14):
        pytest.skip("this restic copies in another way")
    (tmp_path / "password").write_text(PASSWORD)
    copy.run("copy", "--from-repo", ours.place, "--from-password-file", tmp_path / "password")
    check_all(Repository.open(LocalStore(copy.place), PASSWORD), list(ours.points.values()))
    copy.check()


def test_it_rewrites_our_trees_without_loss(restic: Restic, ours: Ours) -> None:
    if restic.version < (0, 15):
        pytest.skip("this restic cannot rewrite")
    trees = sorted(snapshot.tree for _, snapshot in ours.open().snapshots())
    restic.run("repair", "snapshots", "--forget")
    assert {name for name, _ in ours.open().snapshots()} == ours.points.keys()
    restic.run("rewrite", "--forget", "--exclude", "nothing-of-the-kind")
    assert sorted(snapshot.tree for _, snapshot in ours.open().snapshots()) == trees
    check_all(ours.open(), list(ours.points.values()))
    restic.check()


def test_we_go_on_after_it_forgot_and_pruned(restic: Restic, ours: Ours) -> None:
    groups = restic.json("forget", "--keep-last", "1")
    assert len(groups) == 2
    restic.run("prune", "--max-unused", "0")
    restic.check()
    newest = {vm: (snapshot, content) for snapshot, (vm, content) in ours.points.items()}
    repository = ours.open()
    check_all(repository, [(vm, content) for vm, (_, content) in newest.items()])
    snapshot, before = newest["web"]
    after = disk_at(5)
    same = [n for n in range(7) if before[n * KIB512 :][:KIB512] == after[n * KIB512 :][:KIB512]]
    extents = [Extent(n * KIB512, KIB512, Kind.CLEAN if n in same else Kind.DATA) for n in range(7)]
    disk = Disk(after, [*extents, Extent(7 * KIB512, len(after) - 7 * KIB512, Kind.CLEAN)])
    with load_map(repository, snapshot, "web", KIB512) as previous:
        saved = back_up(repository, disk, name="web", previous=previous, block_size=KIB512)
    assert 0 < len(disk.reads) < 7
    restic.check()
    assert restic.run("dump", saved.snapshot, "/web/vda/vda.raw") == after


def test_what_we_had_loaded_before_it_pruned_is_not_relied_on(restic: Restic, ours: Ours) -> None:
    repository = ours.open()
    assert len(repository.index)
    restic.run("forget", "--prune", "--max-unused", "0", *ours.points)
    content = disk_at(0)
    saved = back_up(repository, Disk(content), name="web", block_size=KIB512)
    restic.check()
    assert restic.run("dump", saved.snapshot, "/web/vda/vda.raw") == content


def test_prune_has_nothing_to_do_where_nothing_was_forgotten(binary: str, tmp_path: Path) -> None:
    restic = Restic(binary, tmp_path / "repository")
    repository = new_repository(LocalStore(restic.place))
    for day in range(2):  # not many: ten small packs it would put together
        back_up(repository, Disk(disk_at(day)), block_size=KIB512)
    packs = {path.name for path in (restic.place / "data").glob("*/*")}
    restic.run("prune", "--max-unused", "0")
    assert {path.name for path in (restic.place / "data").glob("*/*")} == packs


def test_its_prune_waits_for_our_lock(restic: Restic, ours: Ours) -> None:
    with writing(ours.open()):
        refused = restic.attempt("prune")
        assert refused.returncode in (1, 11)
        assert b"locked" in refused.stderr
        assert restic.json("snapshots")
    assert restic.attempt("prune").returncode == 0


def test_its_reading_waits_for_our_exclusive_lock(restic: Restic, ours: Ours) -> None:
    with held(ours.open().files, exclusive=True):
        assert restic.attempt("backup", "/etc/hostname").returncode in (1, 11)


def test_we_wait_for_its_exclusive_lock(restic: Restic, ours: Ours) -> None:
    repository = ours.open()
    process = subprocess.Popen(restic.command("check"), env=restic.env, stdout=subprocess.DEVNULL)
    try:
        while not list(repository.store.list(FileType.LOCK)):
            assert process.poll() is None
        process.send_signal(signal.SIGSTOP)  # at work, and in no hurry
        with pytest.raises(RepositoryLockedError, match="locked exclusively"), writing(repository):
            pass
    finally:
        process.send_signal(signal.SIGCONT)
        process.wait(60)
    with writing(repository):
        pass
