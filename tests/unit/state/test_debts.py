# SPDX-License-Identifier: Apache-2.0
"""What is owed is undone, whatever happens, and never hides what went wrong first."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.state.ledger import Ledger
from donjon.state.process import NOBODY, Process, this_process


class Lamps:
    """A host whose lamps can be lit, and on request not be put out again."""

    def __init__(self) -> None:
        self.lit: list[str] = []
        self.put_out: list[str] = []
        self.stuck = False

    def put_off(self, lamp: str) -> None:
        if self.stuck:
            raise HostError("cannot put out the lamp: the switch is stuck")
        self.put_out.append(lamp)
        if lamp in self.lit:
            self.lit.remove(lamp)


@pytest.fixture
def lamps() -> Lamps:
    return Lamps()


def open_ledger(lamps: Lamps, path: Path | str = ":memory:") -> Ledger:
    return Ledger(path, {"lamp": lamps.put_off})


def test_a_debt_is_owed_while_the_block_runs_and_undone_when_it_ends(lamps: Lamps) -> None:
    with open_ledger(lamps) as ledger:
        with ledger.owing("lamp", lamp="red"):
            lamps.lit.append("red")
            assert [str(debt) for debt in ledger.debts()] == ["lamp (lamp=red)"]
        assert (lamps.lit, ledger.debts()) == ([], [])


@pytest.mark.parametrize("error", [HostError("cannot go on"), KeyboardInterrupt(), SystemExit(3)])
def test_a_debt_is_undone_when_the_block_fails(lamps: Lamps, error: BaseException) -> None:
    with open_ledger(lamps) as ledger:
        with pytest.raises(type(error)), ledger.owing("lamp", lamp="red"):
            lamps.lit.append("red")
            raise error
        assert (lamps.lit, ledger.debts()) == ([], [])


def test_a_forgiven_debt_stays_done(lamps: Lamps) -> None:
    with open_ledger(lamps) as ledger:
        with ledger.owing("lamp", lamp="red") as debt:
            lamps.lit.append("red")
            debt.forgive()
        assert (lamps.lit, ledger.debts()) == (["red"], [])


def test_nested_debts_are_undone_newest_first(lamps: Lamps) -> None:
    with open_ledger(lamps) as ledger, ledger.owing("lamp", lamp="red"), ledger.owing("lamp", lamp="green"):
        pass
    assert lamps.put_out == ["green", "red"]


def test_an_undo_that_fails_is_an_error_and_stays_owed_until_settled(lamps: Lamps, tmp_path: Path) -> None:
    with open_ledger(lamps, tmp_path / "ledger") as ledger:
        stuck = pytest.raises(HostError, match=r"cannot undo lamp \(lamp=red\): .*stuck")
        with stuck as raised, ledger.owing("lamp", lamp="red"):
            lamps.lit.append("red")
            lamps.stuck = True
        assert "donjon settle" in (raised.value.hint or "")
        assert [str(debt) for debt in ledger.settle()] == ["lamp (lamp=red)"]
        lamps.stuck = False
        assert (ledger.settle(), ledger.debts(), lamps.lit) == ([], [], [])


@pytest.mark.parametrize("fails", [False, True], ids=["and all went well", "and the block failed"])
def test_a_guest_is_let_go_even_if_the_ledger_is_lost_meanwhile(lamps: Lamps, tmp_path: Path, fails: bool) -> None:
    ledger = open_ledger(lamps, tmp_path / "ledger")
    expected = ZeroDivisionError if fails else HostError
    with pytest.raises(expected) as raised, ledger.owing("lamp", lamp="red"):
        lamps.lit.append("red")
        ledger.close()
        assert not fails or 1 / 0
    assert lamps.lit == []
    assert "cannot use the ledger" in "".join([str(raised.value), *getattr(raised.value, "__notes__", [])])


def test_what_was_left_behind_is_settled_newest_first(lamps: Lamps) -> None:
    lamps.stuck = True
    with open_ledger(lamps) as ledger:
        for lamp in ("red", "green", "blue"):
            with pytest.raises(HostError), ledger.owing("lamp", lamp=lamp):
                pass
        lamps.stuck = False
        assert ledger.settle() == []
    assert lamps.put_out == ["blue", "green", "red"]


def test_an_undo_that_fails_does_not_hide_the_first_error(lamps: Lamps) -> None:
    lamps.stuck = True
    with open_ledger(lamps) as ledger:
        with pytest.raises(ZeroDivisionError) as raised, ledger.owing("lamp", lamp="red"):
            raise ZeroDivisionError
        assert raised.value.__notes__ == ["cannot undo lamp (lamp=red): cannot put out the lamp: the switch is stuck"]
        assert len(ledger.debts()) == 1


class Interrupted(Lamps):
    """Whoever puts the first lamp out is interrupted: before it is out, or after."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when: str | None = when

    def put_off(self, lamp: str) -> None:
        when, self.when = self.when, None
        if when != "before":
            super().put_off(lamp)
        if when:
            raise KeyboardInterrupt("SIGINT")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fails", [False, True], ids=["all went well", "the block failed"])
def test_ctrl_c_does_not_keep_an_undo_from_its_end(when: str, fails: bool) -> None:
    lamps = Interrupted(when)
    with open_ledger(lamps) as ledger:
        stopped = pytest.raises(KeyboardInterrupt, match="SIGINT")
        with stopped, ledger.owing("lamp", lamp="red"), ledger.owing("lamp", lamp="green"):
            lamps.lit += ["red", "green"]
            assert not fails or 1 / 0
        assert (lamps.lit, ledger.debts()) == ([], [])


def test_an_undo_that_fails_after_ctrl_c_is_said_once_and_still_owed() -> None:
    lamps = Interrupted("before")
    with open_ledger(lamps) as ledger:
        with pytest.raises(KeyboardInterrupt) as stopped, ledger.owing("lamp", lamp="red"):
            lamps.stuck = True
        assert stopped.value.__notes__ == ["cannot undo lamp (lamp=red): cannot put out the lamp: the switch is stuck"]
        assert len(ledger.debts()) == 1


def test_the_debts_of_a_living_process_are_left_to_it(lamps: Lamps, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with open_ledger(lamps, path) as ours, open_ledger(lamps, path) as theirs, ours.owing("lamp", lamp="red"):
        lamps.lit.append("red")
        assert theirs.settle() == []
        assert (lamps.lit, len(theirs.debts())) == (["red"], 1)


@pytest.mark.parametrize(
    "change", ["boot_id = 'another boot'", "owner_start = owner_start + 1", "owner_pid = 1 << 30"], ids=str
)
def test_a_process_is_known_by_boot_start_time_and_id(lamps: Lamps, tmp_path: Path, change: str) -> None:
    path = tmp_path / "ledger"
    with open_ledger(lamps, path) as ledger, ledger.owing("lamp", lamp="red"):
        with sqlite3.connect(path) as database:
            database.execute(f"UPDATE debt SET {change}")
        database.close()
        assert ledger.settle() == []
        assert (lamps.put_out, ledger.debts()) == (["red"], [])


def test_a_debt_nobody_knows_how_to_undo_stays_and_does_not_keep_others_from_it(lamps: Lamps, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    lamps.stuck = True
    with Ledger(path, {"lamp": lamps.put_off, "siren": lamps.put_off}) as newer:
        for kind in ("lamp", "siren"):
            with pytest.raises(HostError), newer.owing(kind, lamp=kind):
                pass
    lamps.stuck = False
    with open_ledger(lamps, path) as older:
        assert [debt.kind for debt in older.settle()] == ["siren"]
        assert lamps.put_out == ["lamp"]


def test_nothing_is_done_that_could_not_be_undone(lamps: Lamps) -> None:
    with open_ledger(lamps) as ledger, pytest.raises(ValueError, match="siren"), ledger.owing("siren"):
        lamps.lit.append("the block ran")
    assert lamps.lit == []


def test_the_directory_is_made_for_its_owner_only(lamps: Lamps, tmp_path: Path) -> None:
    path = tmp_path / "state" / "donjon" / "ledger"
    with open_ledger(lamps, path):
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_ledger_others_could_write_to_is_not_trusted(lamps: Lamps, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(HostError, match="cannot trust the ledger"):
        open_ledger(lamps, tmp_path / "ledger")


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(lamps: Lamps, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(HostError, match="cannot open the ledger"):
        open_ledger(lamps, path)
    assert path.read_bytes() == b"something else entirely" * 100


def test_a_ledger_of_a_newer_donjon_is_refused(lamps: Lamps, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(HostError, match="newer donjon"):
        open_ledger(lamps, path)


def test_a_ledger_that_cannot_be_made_says_why(lamps: Lamps, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=r"cannot open the ledger .*: (Not a directory|File exists)"):
        open_ledger(lamps, tmp_path / "file" / "ledger")


def test_a_process_is_alive_until_it_is_killed_even_as_a_zombie() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        start = int(Path(f"/proc/{child.pid}/stat").read_text().rsplit(")")[1].split()[19])
        process = Process(child.pid, start, this_process().boot_id)
        assert process.is_alive()
        child.kill()
        while Path(f"/proc/{child.pid}/stat").read_text().rsplit(") ")[1][0] != "Z":
            pass
        assert not process.is_alive()
    assert not process.is_alive()
    assert (this_process().is_alive(), NOBODY.is_alive()) == (True, False)
