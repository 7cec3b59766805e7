# SPDX-License-Identifier: Apache-2.0
"""A VM goes into the repository and comes back, by way of the command line."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from donjon import trace
from donjon.backup.standstill import START_DEBT
from donjon.errors import HostError
from donjon.model.vm import Power
from donjon.state.process import this_process
from donjon.testing.hypervisor import FakeHypervisor
from donjon.wiring import Program
from tests.unit.cli.conftest import BLOCK, Cli, make_qcow2, make_raw, raw_content, settle, write_qcow2

DEFINITION = """<domain type='kvm'><name>web01</name><uuid>11111111-2222-3333-4444-555555555555</uuid>
<memory unit='MiB'>64</memory><os><type arch='x86_64'>hvm</type></os>
<metadata><d:labels xmlns:d='urn:donjon:vm:1'><d:label key='tier' value='web'/></d:labels></metadata>
<devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>
<target dev='vda' bus='virtio'/></disk><disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
</devices></domain>"""


def backed_up(cli: Cli, image: Path, *words: str) -> dict[str, object]:
    outcome = cli("backup", "web01", "--disk", f"vda={image},format=raw", "--json", *words)
    assert outcome.exit_code == 0, outcome.err
    (backup,) = outcome.json["backups"]
    return dict(backup)


def test_a_disk_comes_back_as_it_was(cli: Cli, home: Path) -> None:
    content = make_raw(home / "a.img", {1: b"x", 5: b"y"})
    backed_up(cli, home / "a.img")
    assert cli("restore", "web01", "--disk", "vda", "--to", "back.img").exit_code == 0
    assert (home / "back.img").read_bytes() == content
    assert (home / "back.img").stat().st_blocks * 512 < len(content)
    assert cli("restore", "web01", "--to", "-").raw == content


def test_the_second_backup_reads_nothing_of_what_has_not_changed(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {1: b"x"})
    settle(home / "a.img")
    make_qcow2(home / "b.qcow2")
    write_qcow2(home / "b.qcow2", 2, 7)
    words = ("backup", "web01", "--disk", "vda=a.img,format=raw", "--disk", "vdb=b.qcow2", "--json")
    cli(*words)
    write_qcow2(home / "b.qcow2", 3, 8)
    (backup,) = cli(*words).json["backups"]
    assert [(disk["target"], disk["read"]) for disk in backup["disks"]] == [("vda", 0), ("vdb", BLOCK)]
    assert cli("restore", "web01", "--disk", "vdb", "--to", "b2.qcow2").exit_code == 0
    assert raw_content(home / "b2.qcow2") == raw_content(home / "b.qcow2")


def test_the_summary_says_what_was_saved_and_why(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {1: b"x"})
    settle(home / "a.img")
    cli("backup", "web01", "--disk", "vda=a.img,format=raw")
    said = cli("backup", "web01", "--disk", "vda=a.img,format=raw").out
    headings, row = said.splitlines()[1:3]
    assert headings.split() == ["disk", "size", "read", "unchanged", "zero", "new", "stored", "why"]
    assert row.split(maxsplit=13)[:5] == ["vda", "4.0", "MiB", "0", "B"]
    assert row.endswith("no file of the image has changed since the last restore point")
    assert "restore point" in said
    assert "held still for" in said


def test_an_older_restore_point_is_found_by_id_and_by_time(cli: Cli, home: Path) -> None:
    old = make_raw(home / "a.img", {1: b"x"})
    first = backed_up(cli, home / "a.img")["restore_point"]
    assert isinstance(first, dict)
    make_raw(home / "a.img", {1: b"z"})
    backed_up(cli, home / "a.img")
    for when in (first["short_id"], first["taken_at"]):
        outcome = cli("restore", f"web01@{when}", "--to", "-")
        assert outcome.raw == old, outcome.err


def test_a_vm_without_libvirt_takes_its_definition_along(cli: Cli, home: Path) -> None:
    content = make_raw(home / "a.img", {0: b"x"})
    definition = DEFINITION.format(image="/nowhere/a.img")
    (home / "vm.xml").write_text(definition, encoding="utf-8")
    assert cli("backup", "--disk", "vda=a.img", "--definition", "vm.xml").exit_code == 0
    assert cli("show", "web01", "--definition").out.split() == definition.split()
    shown = cli("show", "web01", "--json").json
    assert shown["labels"] == {"tier": "web"}
    assert [entry["target"] for entry in shown["left_out"]] == ["sda"]
    assert cli("restore", "web01", "--to-dir", "dir").exit_code == 0
    assert (home / "dir/web01-vda.raw").read_bytes() == content
    assert str(home / "dir/web01-vda.raw") in (home / "dir/web01.xml").read_text(encoding="utf-8")


def test_a_vm_is_defined_under_another_name_and_started(cli: Cli, home: Path) -> None:
    content = make_raw(home / "a.img", {0: b"x"})
    original = cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    assert cli("backup", "--label", "tier=web").exit_code == 0
    outcome = cli("restore", "web01", "--directory", "new", "--name", "web02", "--start", "--json")
    assert outcome.exit_code == 0, outcome.err
    vm = cli.hypervisor.find_vm("web02")
    assert vm.uuid != original.uuid
    assert vm.power is Power.RUNNING
    assert vm.disks[0].source is not None
    assert Path(vm.disks[0].source).read_bytes() == content


def test_a_vm_that_exists_is_not_restored_over(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x"})
    cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    assert cli("backup", "--all").exit_code == 0
    outcome = cli("restore", "web01", "--directory", "new")
    assert outcome.exit_code == 1
    assert "--in-place" in outcome.err
    assert not list(home.glob("new/*"))


def test_a_roll_back_keeps_the_present_disk(cli: Cli, home: Path) -> None:
    old = make_raw(home / "a.img", {0: b"x"})
    cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    cli("backup", "web01")
    new = make_raw(home / "a.img", {0: b"y"})
    (rolled,) = cli("restore", "web01", "--in-place", "--json").json["rolled_back"]
    assert (home / "a.img").read_bytes() == old
    assert Path(rolled["kept"]).read_bytes() == new


def test_a_running_guest_is_shut_down_and_started_again(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x"})
    vm = cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    cli.hypervisor.start(vm.uuid)
    refused = cli("backup", "web01", "--method", "offline")
    assert refused.exit_code == 1
    assert "--shutdown" in refused.err
    assert cli("backup", "web01", "--shutdown").exit_code == 0
    assert cli.hypervisor.power(vm.uuid) is Power.RUNNING
    assert cli("list", "--json").json["restore_points"][0]["consistency"] == "offline"


def test_one_vm_that_fails_does_not_stop_the_others(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x"})
    cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    gone = DEFINITION.format(image=home / "gone.img").replace("web01", "web00").replace("1111-", "1112-", 1)
    cli.hypervisor.define(gone.replace("11111111-", "11111112-"))
    outcome = cli("backup", "--all", "--json")
    assert outcome.exit_code == 3
    assert [entry["vm"] for entry in outcome.json["failed"]] == ["web00"]
    assert "gone.img: it does not exist" in outcome.json["failed"][0]["failure"]["error"]
    assert [entry["restore_point"]["vm_name"] for entry in outcome.json["backups"]] == ["web01"]
    assert cli("backup", "web00", "nobody").exit_code == 1


def two_guests(cli: Cli, home: Path) -> list[str]:
    """UUIDs of web00 and web01, which run."""
    uuids = []
    for number in (0, 1):
        make_raw(home / f"{number}.img", {0: b"x"})
        text = DEFINITION.format(image=home / f"{number}.img").replace("web01", f"web0{number}")
        vm = cli.hypervisor.define(text.replace("11111111-", f"1111111{number}-"))
        cli.hypervisor.start(vm.uuid)
        uuids.append(vm.uuid)
    return uuids


@pytest.mark.parametrize("words", [("--all",), ("--label", "tier=web")], ids=" ".join)
def test_each_vm_is_backed_up_as_it_is_when_its_turn_comes(cli: Cli, home: Path, words: tuple[str, ...]) -> None:
    _, second = two_guests(cli, home)
    new = make_raw(home / "new.img", {3: b"n"})

    def change(point: str) -> None:
        if point == "backup.committed":
            vm = cli.hypervisor.find_vm(second)
            (disk, *others) = vm.disks
            cli.hypervisor.change(replace(vm, disks=(replace(disk, source=str(home / "new.img")), *others)))

    with trace.listening(change):
        assert cli("backup", *words, "--shutdown", "--parallel", "1").exit_code == 0
    assert cli("restore", "web01", "--to", "-").raw == new


def test_an_undo_that_fails_is_said_of_each_of_several_vms(cli: Cli, home: Path) -> None:
    class Unstartable(FakeHypervisor):
        def start(self, uuid: str) -> None:
            raise HostError("cannot start it: no memory")

    two_guests(cli, home)
    (home / "0.img").unlink()
    cli.hypervisor = Unstartable(cli.hypervisor.list_vms())
    outcome = cli("backup", "--all", "--shutdown", "--json")
    assert outcome.exit_code == 3
    first, second = outcome.json["failed"]
    assert "0.img: it does not exist" in first["failure"]["error"]
    (note,) = first["failure"]["notes"]
    assert note.startswith("cannot undo guest.start (")
    assert note.endswith("no memory")
    assert note in outcome.err
    assert (second["vm"], second["failure"]["exit_code"], second["failure"]["notes"]) == ("web01", 3, [])
    make_raw(home / "0.img", {0: b"x"})
    cli.hypervisor = FakeHypervisor(cli.hypervisor.list_vms())
    cli("settle")
    (home / "0.img").unlink()
    cli.hypervisor = Unstartable(cli.hypervisor.list_vms())
    said = cli("backup", "--all", "--shutdown").out
    assert "not backed up: web00: " in said
    assert "  cannot undo guest.start (" in said
    assert "backed up, but incomplete: web01: the restore point " in said
    assert "1 of 2 VMs backed up" in said


def test_diff_counts_changed_bytes(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x", 1: b"y"})
    first = backed_up(cli, home / "a.img")["restore_point"]
    assert isinstance(first, dict)
    make_raw(home / "a.img", {0: b"x", 1: b"z", 9: b"w"}, size=10 * BLOCK)
    backed_up(cli, home / "a.img")
    (disk,) = cli("diff", f"web01@{first['short_id']}", "web01", "--json").json["disks"]
    assert disk == {
        "target": "vda",
        "change": "changed",
        "size_before": 8 * BLOCK,
        "size_after": 10 * BLOCK,
        "changed": 3 * BLOCK,
    }


def test_an_interrupted_run_is_put_right_by_the_next(cli: Cli, home: Path) -> None:
    vm = cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    make_raw(home / "a.img", {0: b"x"})
    child = os.fork()
    if child == 0:
        ledger = Program(environ=cli.environ).open_ledger()
        with ledger.owing(START_DEBT, uri="fake:///default", uuid=vm.uuid):
            os._exit(9)
    os.waitpid(child, 0)
    assert len(cli("owed", "--json").json["debts"]) == 1
    outcome = cli("backup", "web01", "--shutdown")
    assert "undone: guest.start" in outcome.err
    assert cli.hypervisor.power(vm.uuid) is Power.RUNNING
    assert cli("owed").out == ""


def test_a_guest_that_a_backup_shut_down_is_started_also_after_the_host_was_rebooted(cli: Cli, home: Path) -> None:
    vm = cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    with (
        closing(Program(environ=cli.environ).open_ledger()),
        closing(sqlite3.connect(home / "state/ledger.sqlite")) as database,
    ):
        database.execute(
            "INSERT INTO debt (kind, args, owner_pid, owner_start, boot_id, owed_at) VALUES (?, ?, ?, ?, ?, ?)",
            (
                START_DEBT,
                json.dumps({"uri": "fake:///default", "uuid": vm.uuid}),
                *this_process()._replace(boot_id="the boot before"),
                "2026-11-23T08:00:00+00:00",
            ),
        )
        database.commit()
    outcome = cli("settle")
    assert (outcome.exit_code, cli.hypervisor.power(vm.uuid)) == (0, Power.RUNNING)
    assert "undone: guest.start" in outcome.out
    assert cli("owed").out == ""


@pytest.mark.parametrize("name", ["two words", 'o\'brien "q"', "Bücher-東京", "[bold red]x[/]", "a\nb\x1b[31m", "a@b"])
def test_any_name_is_kept_shown_harmless_and_found_again(cli: Cli, home: Path, name: str) -> None:
    content = make_raw(home / "a.img", {0: b"x"}, size=BLOCK)
    assert cli("backup", name, "--disk", "vda=a.img,format=raw").exit_code == 0
    listed = cli("list")
    assert len(listed.out.splitlines()) == 2
    assert "\x1b" not in listed.out
    assert (name if name.isprintable() else "a\\nb\\x1b[31m") in listed.out
    assert cli("list", "--json").json["restore_points"][0]["vm_name"] == name
    assert cli("restore", name, "--to", "-").raw == content


def test_the_repository_is_checked_counted_and_looked_into(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x"})
    backed_up(cli, home / "a.img")
    checked = cli("check", "--read-data", "--json")
    assert (checked.exit_code, checked.json["sound"]) == (0, True)
    assert checked.json["packs_read"] == checked.json["packs"] > 0
    assert cli("stats", "--json").json["snapshots"] == 1
    assert b'"version":2' in cli("cat", "config").raw
    (snapshot,) = cli("list", "--objects", "snapshots", "--json").json["ids"]
    assert b'"paths":["/web01"]' in cli("cat", "snapshot", snapshot[:8]).raw


def test_damage_is_found_and_ends_with_1(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x"})
    backed_up(cli, home / "a.img")
    for pack in (home / "repo/data").glob("*/*"):
        pack.chmod(0o600)
        content = bytearray(pack.read_bytes())
        content[10] ^= 1
        pack.write_bytes(content)
    outcome = cli("check", "--read-data")
    assert outcome.exit_code == 1
    assert "damaged: data/" in outcome.out
    assert cli("restore", "web01", "--to", "out.img").exit_code == 1
    assert not (home / "out.img").exists()


def test_a_lost_index_is_repaired(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = make_raw(home / "a.img", {0: b"x"})
    backed_up(cli, home / "a.img")
    for index in (home / "repo/index").iterdir():
        index.unlink()
    monkeypatch.setattr("donjon.cli.progress.LOG_EVERY_S", 0.0)
    dry = cli("repair", "index", "--dry-run", "--read-all-packs")
    assert "would do" in dry.out
    assert re.search(r"^reading packs: 100 % of ", dry.err, re.MULTILINE)
    assert cli("repair", "index").exit_code == 0
    assert cli("restore", "web01", "--to", "-").raw == content
