# SPDX-License-Identifier: Apache-2.0
"""A process killed at any step of a debt leaves nothing behind that settling does not put right."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from donjon.state.ledger import Ledger

PROGRAM = """
import os, signal, sys
from itertools import cycle
from pathlib import Path
from time import sleep
from donjon.state.ledger import Ledger

directory, die_at = Path(sys.argv[1]), sys.argv[2]

def reached(step):
    if step == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

def undo(file):
    reached("undo begins")
    Path(file).unlink(missing_ok=True)
    reached("undone, not struck off")

with Ledger(directory / "ledger", {"file": undo}) as ledger:
    reached("not owed")
    for name in cycle(("one", "two")) if die_at == "any time" else ("one", "two"):
        file = directory / name
        with ledger.owing("file", file=str(file)):
            reached(f"{name} owed")
            file.touch()
            reached(f"{name} done")
        reached(f"{name} struck off")
        print(name, flush=True)
        sleep(0.01)
"""

STEPS = [
    "not owed",
    "one owed",
    "one done",
    "undo begins",
    "undone, not struck off",
    "one struck off",
    "two owed",
    "two done",
    "two struck off",
]


def remove(file: str) -> None:
    Path(file).unlink(missing_ok=True)


def things_left(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"ledger", "ledger-journal"}


def assert_settled(directory: Path) -> None:
    with Ledger(directory / "ledger", {"file": remove}) as ledger:
        owed = {Path(str(debt.args["file"])).name for debt in ledger.debts()}
        assert things_left(directory) <= owed, "something was done that is not written down"
        assert ledger.settle() == []
        assert (things_left(directory), ledger.debts()) == (set(), [])


@pytest.mark.parametrize("step", STEPS)
def test_a_process_killed_at_a_step_is_settled(tmp_path: Path, step: str) -> None:
    killed = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), step], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert_settled(tmp_path)


def test_processes_killed_at_any_time_are_settled_by_others_meanwhile_and_after(tmp_path: Path) -> None:
    chance = random.Random(20)
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), "any time"], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(chance.uniform(0, 0.3))
            with Ledger(tmp_path / "ledger", {"file": remove}) as ledger:
                assert ledger.settle() == []
            child.kill()
    assert_settled(tmp_path)


def test_each_left_debt_is_undone_once_when_several_settle_at_the_same_time(tmp_path: Path) -> None:
    undone = tmp_path / "undone"

    def note(thing: int) -> None:
        with undone.open("a") as file:
            file.write(f"{thing}\n")

    for thing in range(20):
        if os.fork() == 0:
            with Ledger(tmp_path / "ledger", {"note": note}) as ledger, ledger.owing("note", thing=thing):
                os.kill(os.getpid(), signal.SIGKILL)
        os.wait()

    def settle(_: int) -> int:
        with Ledger(tmp_path / "ledger", {"note": note}) as ledger:
            return len(ledger.settle())

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(settle, range(4))) == 0
    assert sorted(map(int, undone.read_text().split())) == list(range(20))
