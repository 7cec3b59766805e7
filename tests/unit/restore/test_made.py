# SPDX-License-Identifier: Apache-2.0
"""What a restore made goes again if it fails; what others have put there, or use, never does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from donjon.restore.made import FILE_DEBT, identity, made, remove_restored
from donjon.state.ledger import Ledger
from donjon.wiring import undoers
from tests.unit.restore.conftest import opened_for_writing


def make(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_bytes(b"restored")
    else:
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "file").write_bytes(b"restored")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_was_made_goes_again(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new"
    make(path, kind)
    known = identity(path)
    assert remove_restored(str(path), **known) is None
    assert remove_restored(str(path), **known) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_of_what_has_no_name_yet_nothing_else_goes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new"
    path.write_bytes(b"somebody else's")
    make(tmp_path / ".new.01234567.unfinished", kind)
    remove_restored(str(path))
    remove_restored(str(path))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("deed", ["replaced", "written to", "a link"])
def test_what_others_put_there_stays_and_is_owed_no_more(tmp_path: Path, kind: str, deed: str) -> None:
    path, said = tmp_path / "new", list[str]()
    make(path, kind)
    ledger = Ledger(":memory:", undoers(lambda _: pytest.fail("no hypervisor is needed"), said.append))
    with ledger.owing(FILE_DEBT, path=str(path), **identity(path)):
        if deed == "a link":
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
        elif deed == "written to":
            (path if kind == "file" else path / "more").write_bytes(b"precious")
        else:
            path.unlink() if kind == "file" else shutil.rmtree(path)
            make(path, kind)  # which may well get the inode that is free now
    assert path.exists()
    assert len(said) == 1
    assert str(path) in said[0]
    assert ledger.debts() == []


def test_an_image_that_a_guest_runs_from_stays(tmp_path: Path) -> None:
    path = tmp_path / "new"
    make(path, "file")
    with opened_for_writing(path):
        assert "in use" in (remove_restored(str(path), **identity(path)) or "")
    assert path.exists()


def test_a_directory_made_to_hold_others_goes_only_if_it_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "new"
    path.mkdir()
    (path / "precious").touch()
    remove_restored(str(path), only_if_empty=True)
    assert (path / "precious").exists()
    (path / "precious").unlink()
    remove_restored(str(path), only_if_empty=True)
    remove_restored(str(path), only_if_empty=True)
    assert not path.exists()


def test_a_file_that_may_be_replaced_is_there_also_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_bytes(b"precious")
    ledger = Ledger(":memory:", undoers(lambda _: pytest.fail("no hypervisor is needed")))
    with pytest.raises(ZeroDivisionError), made(ledger) as new:
        announce = new.replacing(path)
        other = tmp_path / "other"
        other.write_bytes(b"restored")
        announce(other)
        os.replace(other, path)
        raise ZeroDivisionError
    assert path.read_bytes() == b"restored"
    assert ledger.debts() == []
