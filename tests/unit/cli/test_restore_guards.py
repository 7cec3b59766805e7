# SPDX-License-Identifier: Apache-2.0
"""A restore by way of the command line loses nothing on the way, and says what it could not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.hypervisors.definition import parse_definition
from donjon.repository import lock
from donjon.repository.repository import Repository
from donjon.repository.stores.local import LocalStore
from donjon.testing.hypervisor import FakeHypervisor
from donjon.trace import listening
from tests.unit.cli.conftest import BLOCK, PASSWORD, Cli, make_raw
from tests.unit.cli.test_bad_input import check_refusal, loop_device
from tests.unit.cli.test_round_trip import DEFINITION
from tests.unit.restore.conftest import opened_for_writing

READERS = (("restore", "web01", "--to", "-"), ("show", "web01"), ("diff", "web01", "web01"), ("stats",))


class Unstartable(FakeHypervisor):
    """A host without memory for one more guest."""

    def start(self, uuid: str) -> None:
        raise HostError(f"cannot start {uuid}: no memory", hint="stop another")


@pytest.fixture
def image(cli: Cli, home: Path) -> bytes:
    """What the disk of a VM held that was backed up."""
    content = make_raw(home / "a.img", {0: b"x", 7: b"y"})
    cli.hypervisor = Unstartable()
    cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    assert cli("backup", "web01").exit_code == 0
    return content


@pytest.mark.parametrize("words", [("--directory", "new", "--name", "web02"), ("--in-place",)], ids=" ".join)
def test_a_vm_that_does_not_start_is_restored_all_the_same(cli: Cli, image: bytes, words: tuple[str, ...]) -> None:
    outcome = cli("restore", "web01", *words, "--start", "--json")
    assert outcome.exit_code == 3
    assert (outcome.json["started"], outcome.json["not_started"]["hint"]) == (False, "stop another")
    (disk,) = outcome.json["disks"] or outcome.json["rolled_back"]
    assert Path(disk["path"]).read_bytes() == image
    if "--in-place" in words:
        said = cli("restore", "web01", *words, "--start", "--quiet")
        assert said.exit_code == 3
        assert "not started: cannot start" in said.out
        assert "only disks were rolled back" in said.out
    assert cli("owed").out == ""


@pytest.mark.parametrize("words", READERS, ids=lambda words: str(words[0]))
def test_who_reads_keeps_others_from_removing(cli: Cli, home: Path, image: bytes, words: tuple[str, ...]) -> None:
    repository = Repository.open(LocalStore(home / "repo"), PASSWORD)
    assert image
    with lock.held(repository.files, exclusive=True):
        assert cli(*words).exit_code == 11
        assert cli(*words, "--no-lock").exit_code == 0
    locks: list[int] = []
    with listening(
        lambda point: locks.append(len(list((home / "repo/locks").iterdir()))) if point[:4] == "lock" else 0
    ):
        assert cli(*words).exit_code == 0
    assert locks == [1]
    assert list((home / "repo/locks").iterdir()) == []


@pytest.mark.root
def test_a_device_that_is_in_use_is_not_overwritten_even_by_force(cli: Cli, home: Path, image: bytes) -> None:
    (home / "disk").write_bytes(b"\xff" * len(image))
    with loop_device(home / "disk") as device, opened_for_writing(Path(device)):
        check_refusal(cli("restore", "web01", "--to", device, "--force"), 1, device, "open for writing")
    assert (home / "disk").read_bytes() == b"\xff" * len(image)


@pytest.mark.root
def test_a_device_is_not_touched_if_the_disk_is_damaged(cli: Cli, home: Path) -> None:
    (home / "a.img").write_bytes(os.urandom(40 * BLOCK))
    assert cli("backup", "web01", "--disk", "vda=a.img,format=raw").exit_code == 0
    last = max((home / "repo/data").glob("*/*"), key=lambda pack: pack.stat().st_size)
    last.chmod(0o600)
    content = bytearray(last.read_bytes())
    content[-2 * BLOCK] ^= 1
    last.write_bytes(content)
    (home / "disk").write_bytes(b"\xff" * (40 * BLOCK))
    with loop_device(home / "disk") as device:
        assert cli("restore", "web01", "--to", device, "--force").exit_code == 1
    assert (home / "disk").read_bytes() == b"\xff" * (40 * BLOCK)


@pytest.mark.root
def test_a_disk_of_a_whole_vm_goes_over_a_device_by_order(cli: Cli, home: Path, image: bytes) -> None:
    (home / "disk").write_bytes(b"\xff" * len(image))
    with loop_device(home / "disk") as device:
        words = ("restore", "web01", "--directory", "new", "--name", "web02", "--disk-to", f"vda={device}")
        check_refusal(cli(*words), 1, device, "--force")
        assert not (home / "new").exists()
        assert cli(*words, "--force").exit_code == 0
        assert cli.hypervisor.find_vm("web02").disks[0].source == device
        definition = parse_definition((home / "new/web02.xml").read_text(encoding="utf-8"), "")
        assert definition.disks[0].source == device
    assert (home / "disk").read_bytes() == image


@pytest.mark.parametrize(
    "words",
    [
        "--to out --disk-to vda=/dev/null --force",
        "--in-place --disk-to vda=/dev/null",
        "--to-dir new --disk-to vda --force",
        "--to-dir new --disk-to vda=a.img --force",
        "--to-dir new --disk-to vdz=/dev/null --force",
        "--to-dir new --force",
    ],
)
def test_words_about_devices_that_make_no_sense(cli: Cli, home: Path, image: bytes, words: str) -> None:
    outcome = cli("restore", "web01", *words.split())
    assert outcome.exit_code == 1
    assert outcome.err.startswith("donjon: cannot ")
    assert not (home / "new").exists()
    assert (home / "a.img").read_bytes() == image


def test_a_large_disk_goes_to_standard_output_in_order(cli: Cli, home: Path) -> None:
    """Many stretches, opened by several threads at a time."""
    (home / "large.img").write_bytes(os.urandom(24 << 20) + bytes(3 << 20) + os.urandom(9 << 20))
    assert cli("backup", "large", "--disk", "vda=large.img,format=raw").exit_code == 0
    assert cli("restore", "large", "--to", "-").raw == (home / "large.img").read_bytes()


def test_where_a_disk_cannot_go_is_said_with_what_to_do(cli: Cli, home: Path, image: bytes) -> None:
    (home / "folder").mkdir()
    check_refusal(cli("restore", "web01", "--disk", "vda", "--to", "folder"), 1, "it is a directory", "--to-dir")
    missing = cli("restore", "web01", "--disk", "vda", "--to", "nowhere/x.raw")
    assert missing.exit_code == 1
    assert f"there is no directory {home / 'nowhere'}" in missing.err


def test_vms_of_one_name_are_told_apart_by_id_and_listed_together(cli: Cli, home: Path, image: bytes) -> None:
    make_raw(home / "b.img", {1: b"z"})
    assert cli("backup", "web01", "--disk", "vda=b.img,format=raw").exit_code == 0
    points = cli("list", "web01", "--json").json["restore_points"]
    assert len(points) == 2
    assert "there are 2" in cli("show", "web01").err
    assert cli("restore", f"web01@{points[-1]['id'][:8]}", "--to", "-").raw == (home / "b.img").read_bytes()


def test_a_disk_given_twice_is_refused(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x"})
    outcome = cli("backup", "s", "--disk", "vda=a.img", "--disk", "vda=a.img")
    assert outcome.exit_code == 1
    assert "disk vda was given twice" in outcome.err
