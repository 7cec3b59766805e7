# SPDX-License-Identifier: Apache-2.0
"""What a guest swears of its files is true of the moment of the restore point, or is not kept."""

from __future__ import annotations

import pytest

from donjon.hypervisors.agent import Executed
from donjon.model.restore_point import Consistency
from donjon.quiesce.witness import Witness
from donjon.testing.agent import FakeAgents

UUID = "1111"
HASH, OTHER = "a" * 64, "b" * 64


class Guests(FakeAgents):
    def has(self, path: str, content: bytes, code: int = 0) -> None:
        self.agent(UUID).programs["sha256sum", "--", path] = Executed(code, content, b"")

    def holds(self, path: str, digest: str) -> None:
        self.has(path, f"{digest}  {path}\n".encode())


@pytest.fixture
def guests() -> Guests:
    return Guests()


def test_a_file_that_stayed_as_it_was_is_kept(guests: Guests) -> None:
    guests.holds("/etc/hosts", HASH)
    witness = Witness(guests, ["/etc/hosts", "/etc/hosts"])
    witness.ask_before([UUID])
    sworn = witness.ask_after(UUID, Consistency.FILESYSTEM)
    assert (sworn.hashes, sworn.notes) == ({"/etc/hosts": HASH}, ())
    assert len(guests.agent(UUID).said) == 2


def test_a_file_that_changed_meanwhile_is_not_and_it_is_said(guests: Guests) -> None:
    guests.holds("/etc/hosts", HASH)
    guests.holds("/var/log", HASH)
    witness = Witness(guests, ["/etc/hosts", "/var/log"])
    witness.ask_before([UUID])
    guests.holds("/var/log", OTHER)
    sworn = witness.ask_after(UUID, Consistency.APPLICATION)
    assert sworn.hashes == {"/etc/hosts": HASH}
    assert "/var/log" in sworn.notes[0]
    assert "changed" in sworn.notes[0]


def test_without_a_freeze_nobody_knows_what_the_disks_held(guests: Guests) -> None:
    guests.holds("/etc/hosts", HASH)
    witness = Witness(guests, ["/etc/hosts"])
    witness.ask_before([UUID])
    sworn = witness.ask_after(UUID, Consistency.CRASH)
    assert sworn.hashes == {}
    assert "not frozen" in sworn.notes[0]


@pytest.mark.parametrize("said", [b"", b"nonsense", b"\xff" * 80, HASH.upper().encode() + b"  /etc/hosts\n"])
def test_an_agent_that_answers_nonsense_is_not_believed(guests: Guests, said: bytes) -> None:
    guests.has("/etc/hosts", said)
    assert sworn_of(guests) == {}


def test_a_file_that_is_not_there_and_an_agent_that_is_not_are_no_harm(guests: Guests) -> None:
    guests.has("/etc/hosts", f"{HASH}  /etc/hosts\n".encode(), code=1)
    assert sworn_of(guests) == {}
    guests.agent(UUID).present = False
    assert sworn_of(guests) == {}


def test_without_files_nobody_is_asked(guests: Guests) -> None:
    witness = Witness(guests, [])
    witness.ask_before([UUID])
    sworn = witness.ask_after(UUID, Consistency.CRASH)
    assert (sworn.hashes, sworn.notes, guests.agents) == ({}, (), {})


def sworn_of(guests: Guests) -> dict[str, str]:
    witness = Witness(guests, ["/etc/hosts"])
    witness.ask_before([UUID])
    sworn = witness.ask_after(UUID, Consistency.FILESYSTEM)
    assert sworn.notes
    return sworn.hashes
