# SPDX-License-Identifier: Apache-2.0
"""The folder for what a guest overwrites: nobody else's, checked for space, gone in the end."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from donjon import trace
from donjon.backup.scratch import SCRATCH_DEBT, remove_scratch, scratch_for
from donjon.errors import ConfigError, HostError
from donjon.hypervisors.hot_backup import Owner
from donjon.state.ledger import Ledger

ME = Owner(os.geteuid(), os.getegid())
NOBODY = Owner(65534, 65534)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger(":memory:", {SCRATCH_DEBT: remove_scratch}) as ledger:
        yield ledger


def test_only_the_guests_process_may_enter_it(ledger: Ledger, tmp_path: Path) -> None:
    with scratch_for(ledger, tmp_path, ME, 0) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == ME.uid


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a folder away")
def test_it_belongs_to_the_user_the_guest_runs_as(ledger: Ledger, tmp_path: Path) -> None:
    with scratch_for(ledger, tmp_path, NOBODY, 0) as folder:
        assert (folder.stat().st_uid, folder.stat().st_gid) == (NOBODY.uid, NOBODY.gid)


def test_it_is_gone_in_the_end_with_all_it_holds(ledger: Ledger, tmp_path: Path) -> None:
    with scratch_for(ledger, tmp_path, ME, 0) as folder:
        (folder / "vda.scratch").write_bytes(b"old")
    assert list(tmp_path.iterdir()) == []
    assert ledger.debts() == []


def test_it_is_owed_before_it_is_made(ledger: Ledger, tmp_path: Path) -> None:
    seen = []

    def listen(point: str) -> None:
        if point == "scratch.owed":
            seen.append(([debt.kind for debt in ledger.debts()], list(tmp_path.iterdir())))

    with trace.listening(listen), scratch_for(ledger, tmp_path, ME, 0):
        pass
    assert seen == [([SCRATCH_DEBT], [])]


def test_too_little_space_is_said_before_anything_is_done(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="MiB are free") as told, scratch_for(ledger, tmp_path, ME, 1 << 62):
        pass
    assert "--scratch" in str(told.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_directory_must_be_one(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such directory"), scratch_for(ledger, tmp_path / "no", ME, 0):
        pass


def test_nothing_else_is_ever_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    link = tmp_path / "donjon-0123456789abcdef"
    link.symlink_to(tmp_path / "precious")
    for path in (tmp_path / "precious", link):
        with pytest.raises(HostError, match="not the folder"):
            remove_scratch(str(path))
    assert (tmp_path / "precious").is_dir()


def test_removing_it_twice_does_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "donjon-0123456789abcdef"
    folder.mkdir()
    remove_scratch(str(folder))
    remove_scratch(str(folder))
    assert not folder.exists()
