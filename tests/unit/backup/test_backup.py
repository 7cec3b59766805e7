# SPDX-License-Identifier: Apache-2.0
"""A VM's disks go into the repository byte for byte, and what is known to be unchanged is not read."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from donjon.backup.methods.offline import WhenRunning
from donjon.errors import ConfigError, HostError, IncompleteError, RefusedError, StoreError
from donjon.model.vm import Device, Disk, Power, SideFile
from donjon.repository.format.blob import BlobType
from donjon.repository.format.tree import Node
from donjon.repository.reader import find_node, load_tree, read_file
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.memory import MemoryStore
from donjon.restore_points import load_definition, load_manifest
from donjon.testing.faults import Faults
from donjon.testing.hypervisor import FakeHypervisor
from donjon.trace import listening
from tests.unit.backup.site import (
    BLOCK,
    KIB,
    MIB,
    Calling,
    Site,
    bitmaps,
    disk,
    machine,
    new_chain,
    new_qcow2,
    new_raw,
    qemu,
    qemu_io,
    restored,
    truth,
    without,
)
from tests.unit.repository.disks import PASSWORD


def test_all_disks_come_back_byte_for_byte(tmp_path: Path) -> None:
    raw, top = new_raw(tmp_path), new_chain(tmp_path)
    site = Site(machine(disk("vda", raw), disk("vdb", top), definition="<domain/>"))
    report = site.back_up()
    assert [(it.target, it.size) for it in report.disks] == [("vda", 3 * MIB + 1000), ("vdb", 4 * MIB)]
    assert "no earlier restore point" in report.disks[0].reason
    assert site.restored(target="vda") == raw.read_bytes()
    assert site.restored(target="vdb") == truth(top)
    assert load_definition(site.repository, report.restore_point) == "<domain/>"
    assert site.ledger.debts() == []


def test_the_second_backup_reads_only_what_changed(tmp_path: Path) -> None:
    raw, top = new_raw(tmp_path), new_chain(tmp_path)
    time.sleep(2.1)  # younger images could change once more without a trace
    site = Site(machine(disk("vda", raw), disk("vdb", top)))
    site.back_up()
    qemu_io(top, f"write -P 51 {3 * MIB + 4096} 4k", f"write -z -u 0 {BLOCK}", f"discard {BLOCK} {BLOCK}")
    expected = truth(top)
    unchanged, changed = site.back_up().disks
    assert (unchanged.read, unchanged.zero, unchanged.kept) == (0, 0, unchanged.size)
    assert unchanged.reason == "no file of the image has changed since the last restore point"
    assert (changed.read, changed.zero) == (BLOCK, 2 * BLOCK)
    assert changed.kept == changed.size - 3 * BLOCK
    assert changed.reason == "the image's bitmap tells what has changed"
    assert site.restored(target="vda") == raw.read_bytes()
    assert site.restored(target="vdb") == expected


def test_one_bitmap_is_kept_in_an_image_for_each_repository(tmp_path: Path) -> None:
    top = new_qcow2(tmp_path)
    site, other = Site(machine(disk("vda", top))), Site()
    for number in range(3):
        qemu_io(top, f"write -P {60 + number} {number}M 64k")
        site.back_up()
        report = site.back_up(repository=other.repository)
        expected = truth(top)
        assert site.restored() == other.restored() == expected
        assert bitmaps(top) == {site.checkpoint(), other.checkpoint()}
        assert number == 0 or report.disks[0].read == BLOCK


def test_an_unchanged_image_is_not_written_to_and_keeps_its_bitmap(tmp_path: Path) -> None:
    top = new_chain(tmp_path)
    site = Site(machine(disk("vda", top)))
    site.back_up(track_changes=False)
    time.sleep(2.1)
    site.back_up(track_changes=False)
    before = top.stat()
    report = site.back_up()
    assert report.disks[0].kept == report.disks[0].size
    assert top.stat().st_mtime_ns == before.st_mtime_ns
    qemu_io(top, "write -P 9 1M 64k")
    assert site.back_up().disks[0].read > 0
    assert site.restored() == truth(top)
    qemu_io(top, "write -P 10 2M 64k")
    assert site.back_up().disks[0].read == BLOCK
    assert site.restored() == truth(top)


@pytest.mark.root
def test_an_image_that_cannot_be_written_to_is_backed_up_without_a_bitmap(tmp_path: Path) -> None:
    top = new_chain(tmp_path)
    site = Site(machine(disk("vda", top)))
    qemu("mount", "--bind", tmp_path, tmp_path)
    try:
        qemu("mount", "-o", "remount,ro,bind", tmp_path)
        report = site.back_up()
    finally:
        qemu("umount", tmp_path)
    assert site.restored() == truth(top)
    assert any("next backup reads all" in note for note in report.notes)
    assert (site.checkpoint(), site.ledger.debts()) == (None, [])


def test_a_crash_before_the_bitmap_is_kept_costs_a_full_read_and_nothing_else(tmp_path: Path) -> None:
    top = new_chain(tmp_path)
    site = Site(machine(disk("vda", top)))
    site.back_up()
    qemu_io(top, "write -P 9 1M 64k")
    qemu("qemu-img", "bitmap", "--remove", "-f", "qcow2", top, site.checkpoint() or "")
    qemu("qemu-img", "bitmap", "--add", "-f", "qcow2", top, f"donjon-{site.repository.config.id[:8]}-left")
    report = site.back_up()
    assert report.disks[0].reason == "the bitmap begun at the last restore point is gone from the image"
    assert report.disks[0].kept == 0
    assert bitmaps(top) == {site.checkpoint()}
    assert site.restored() == truth(top)


def test_a_bitmap_that_cannot_be_removed_after_the_commit_is_left_to_the_next_backup(tmp_path: Path) -> None:
    """Somebody may start the guest as soon as the restore point is safe."""
    top = new_chain(tmp_path)
    site = Site(machine(disk("vda", top)))
    site.back_up()
    with site.method().capture(
        site.host.find_vm("web01"), load_manifest(site.repository, site.points()[-1])
    ) as capture:
        capture.verify()
        with subprocess.Popen(["qemu-io", "-f", "qcow2", top], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
            assert guest.stdin
            assert guest.stdout
            guest.stdin.write(b"write -P 77 0 64k\n")
            guest.stdin.flush()
            guest.stdout.readline()
            capture.commit()
            guest.stdin.close()
    assert len(bitmaps(top)) == 2
    site.back_up()
    assert bitmaps(top) == {site.checkpoint()}
    assert site.restored() == truth(top)


class TestWhichDisks:
    def test_an_empty_drive_and_a_cd_are_left_out_and_said_so(self, tmp_path: Path) -> None:
        raw, iso = new_raw(tmp_path), tmp_path / "install.iso"
        iso.write_bytes(b"iso" * 1000)
        drives = (Disk("sda", None, device=Device.CDROM), Disk("sdb", str(iso), "raw", device=Device.CDROM))
        site = Site(machine(disk("vda", raw), *drives))
        report = site.back_up()
        assert [(left.target, left.reason) for left in report.left_out] == [
            ("sda", "the drive is empty"),
            ("sdb", "removable medium"),
        ]
        assert site.back_up(include_isos=True).disks[1].size == 3000
        assert site.restored(target="sdb") == iso.read_bytes()

    @pytest.mark.parametrize("label", [b"cidata", b"CIDATA", b"config-2"])
    def test_the_cd_that_configures_the_guest_is_part_of_it(self, tmp_path: Path, label: bytes) -> None:
        seed = tmp_path / "seed.iso"
        descriptor = (b"\x01CD001\x01\0" + b" " * 32 + label.ljust(32)).ljust(2048, b"\0")
        seed.write_bytes(bytes(16 * 2048) + descriptor + bytes(4096))
        site = Site(machine(disk("vda", new_raw(tmp_path)), Disk("sda", str(seed), "raw", device=Device.CDROM)))
        site.back_up()
        assert site.restored(target="sda") == seed.read_bytes()

    def test_a_network_disk_is_refused_unless_it_is_skipped(self, tmp_path: Path) -> None:
        remote = Disk("vdb", None, remote="network: rbd pool/image")
        site = Site(machine(disk("vda", new_raw(tmp_path)), remote))
        with pytest.raises(RefusedError, match="rbd pool/image") as refused:
            site.back_up()
        assert "--skip-disk vdb" in (refused.value.hint or "")
        report = site.back_up(skip_disks=frozenset({"vdb"}))
        assert [left.reason for left in report.left_out] == ["the operator said so"]

    def test_a_vm_without_a_disk_is_refused(self) -> None:
        with pytest.raises(RefusedError, match="no disk"):
            Site(machine()).back_up()

    def test_a_disk_that_was_skipped_once_is_read_whole_afterwards(self, tmp_path: Path) -> None:
        top = new_chain(tmp_path)
        site = Site(machine(disk("vda", new_raw(tmp_path)), disk("vdb", top)))
        site.back_up()
        site.back_up(skip_disks=frozenset({"vdb"}))
        qemu_io(top, "write -P 5 0 64k")
        assert site.back_up().disks[1].kept == 0
        assert site.restored(target="vdb") == truth(top)
        assert bitmaps(top) == {site.checkpoint("vdb")}


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["two words", 'it\'s "quoted"', "new\nline", "a/b", "100%", ".hidden", "..", "Füchse 狐", "n" * 255, "a@b"],
    )
    def test_a_vm_of_any_name_is_found_again(self, tmp_path: Path, name: str) -> None:
        raw = new_raw(tmp_path)
        site = Site(machine(disk("vda", raw), name=name))
        site.back_up()
        (point,) = site.points()
        assert point.vm_name == name
        assert load_manifest(site.repository, point).vm_name == name
        assert site.restored() == raw.read_bytes()

    @pytest.mark.parametrize("name", ["", "a\0b", "n" * 256, "狐" * 90, "\udcff"])
    def test_a_name_that_no_file_system_can_hold_is_refused(self, tmp_path: Path, name: str) -> None:
        site = Site(machine(disk("vda", new_raw(tmp_path)), name=name))
        with pytest.raises(ConfigError, match="cannot back up"):
            site.back_up()

    def test_a_path_that_is_not_utf8_is_refused_before_anything_is_done(self, tmp_path: Path) -> None:
        raw = new_raw(tmp_path)
        site = Site(machine(replace(disk("vda", raw), source=f"{tmp_path}/\udcff")))
        with pytest.raises(ConfigError, match="not UTF-8"):
            site.back_up()


def test_a_damaged_snapshot_of_another_time_does_not_stop_backups(tmp_path: Path) -> None:
    raw = new_raw(tmp_path)
    site = Site(machine(disk("vda", raw)))
    first = site.back_up().restore_point
    files = site.repository.store.files  # type: ignore[attr-defined]
    (name,) = [file for file in files if file.name == first.id]
    files[name] = files[name][:-1]
    report = site.back_up()
    assert any(first.id[:8] in note and "damaged" in note for note in report.notes)
    assert restored(site.repository, report.restore_point) == raw.read_bytes()


def test_a_side_file_that_does_not_exist_yet_is_left_out(tmp_path: Path) -> None:
    vars_file = tmp_path / "vars.fd"
    vm = machine(disk("vda", new_raw(tmp_path)), side_files=(SideFile("nvram", str(vars_file)),))
    site = Site(vm)
    point = site.back_up().restore_point
    assert load_manifest(site.repository, point).side_files == ()
    vars_file.write_bytes(b"variables")
    point = site.back_up().restore_point
    (file,) = load_manifest(site.repository, point).side_files
    assert (file.role, file.source, file.path) == ("nvram", str(vars_file), "/web01/files/nvram/vars.fd")


class TestSideFiles:
    def site(self, folder: Path, role: str, path: Path) -> Site:
        return Site(machine(disk("vda", new_raw(folder)), side_files=(SideFile(role, str(path)),)))

    def files(self, site: Site) -> dict[str, bytes]:
        """What the repository has beside the disks, by path."""
        manifest = load_manifest(site.repository, site.points()[-1])
        found: dict[str, bytes] = {}

        def walk(node: Node, path: str) -> None:
            if node.subtree is None:
                found[path] = b"".join(read_file(site.repository, node))
            else:
                for child in load_tree(site.repository, bytes.fromhex(node.subtree)).nodes:
                    walk(child, f"{path}/{child.name}")

        for file in manifest.side_files:
            walk(find_node(site.repository, site.points()[-1].tree, file.path), file.path)
        return found

    @pytest.mark.parametrize("role", ["kernel", "initrd", "dtb", "seed"])
    def test_what_should_be_there_and_is_not_is_said(self, tmp_path: Path, role: str) -> None:
        site = self.site(tmp_path, role, tmp_path / "gone")
        report = site.back_up()
        said = f"the {role} {tmp_path}/gone does not exist, and is left out"
        assert report.notes == load_manifest(site.repository, report.restore_point).notes == (said,)
        assert self.files(site) == {}

    @pytest.mark.parametrize("role", ["nvram", "tpm"])
    def test_what_comes_into_being_at_the_first_start_is_not_missed(self, tmp_path: Path, role: str) -> None:
        assert self.site(tmp_path, role, tmp_path / "gone").back_up().notes == ()

    def test_a_place_that_cannot_be_looked_at_is_not_taken_for_empty(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(HostError, match="Not a directory"):
            self.site(tmp_path, "nvram", tmp_path / "file" / "vars.fd").back_up()
        (tmp_path / "link").symlink_to("nothing")
        with pytest.raises(HostError, match="No such file"):
            self.site(tmp_path, "nvram", tmp_path / "link").back_up()

    def test_a_link_in_a_directory_is_not_followed_and_said_so(self, tmp_path: Path) -> None:
        tpm, secret = tmp_path / "tpm2", tmp_path / "shadow"
        (tpm / "deep").mkdir(parents=True)
        secret.write_bytes(b"secret")
        (tpm / "state").write_bytes(b"state")
        (tpm / "deep" / "link").symlink_to(secret)
        (tpm / "outside").symlink_to(tmp_path)
        site = self.site(tmp_path, "tpm", tpm)
        report = site.back_up()
        assert self.files(site) == {"/web01/files/tpm/tpm2/state": b"state"}
        assert report.notes == tuple(
            f"{tpm}/{link} is a symbolic link, and is left out" for link in ("deep/link", "outside")
        )

    def test_the_operators_own_link_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "vmlinuz-6.1").write_bytes(b"kernel")
        (tmp_path / "vmlinuz").symlink_to("vmlinuz-6.1")
        site = self.site(tmp_path, "kernel", tmp_path / "vmlinuz")
        assert site.back_up().notes == ()
        assert self.files(site) == {"/web01/files/kernel/vmlinuz": b"kernel"}

    @pytest.mark.parametrize("times", [1, 2])
    def test_one_that_changes_while_it_is_read_is_read_once_more(self, tmp_path: Path, times: int) -> None:
        nvram = tmp_path / "vars.fd"
        nvram.write_bytes(b"begin")
        site = self.site(tmp_path, "nvram", nvram)
        changes = iter(range(times))

        def change(point: str) -> None:
            if point == "files.examined" and next(changes, None) is not None:
                nvram.write_bytes(nvram.read_bytes() + b" more")

        with listening(change):
            if times == 1:
                site.back_up()
                assert self.files(site) == {"/web01/files/nvram/vars.fd": b"begin more"}
            else:
                with pytest.raises(HostError, match="changed while it was read"):
                    site.back_up()
                assert (site.points(), site.ledger.debts()) == ([], [])


class TestWhatTheRepositoryHasLost:
    @pytest.mark.parametrize("loss", ["missing", "cut"])
    def test_a_restore_point_whose_packs_are_lost_does_not_stop_backups(self, tmp_path: Path, loss: str) -> None:
        raw = new_raw(tmp_path)
        site = Site(machine(disk("vda", raw)))
        site.back_up()
        lose_directories(site, loss)
        raw.write_bytes(raw.read_bytes()[:-4] + b"LAST")
        report = site.back_up()
        assert any("is of no use" in note and "donjon repair index" in note for note in report.notes)
        assert report.disks[0].kept == 0
        assert restored(site.repository, report.restore_point) == raw.read_bytes()

    def test_an_unchanged_disk_whose_directory_is_lost_gets_one_again(self, tmp_path: Path) -> None:
        raw = new_raw(tmp_path)
        site = Site(machine(disk("vda", raw)))
        site.back_up()
        lose_directories(site, "missing")
        report = site.back_up()
        assert restored(site.repository, report.restore_point) == raw.read_bytes()

    def test_a_store_that_cannot_be_read_at_all_is_an_error(self, tmp_path: Path) -> None:
        site = Site(machine(disk("vda", new_raw(tmp_path)), power=Power.RUNNING))
        site.back_up(when_running=WhenRunning.SHUT_DOWN)
        reading = {"load", "list", "size"}
        opening = Faults(site.repository.store, 0, StoreError("out of reach"), only=reading)
        Repository.open(opening, PASSWORD)
        lost = Faults(site.repository.store, opening.calls + 1, StoreError("out of reach"), only=reading, for_good=True)
        with pytest.raises(StoreError, match="out of reach"):
            site.back_up(repository=Repository.open(lost, PASSWORD), when_running=WhenRunning.SHUT_DOWN)
        assert (site.power(), len(site.points())) == (Power.RUNNING, 1)


def lose_directories(site: Site, loss: str) -> None:
    """Lose the pack with all directories of the last restore point."""
    assert isinstance(site.repository.store, MemoryStore)
    (location,) = site.repository.locations(BlobType.TREE, site.points()[-1].tree)
    content = site.repository.store.files.pop(FileName(FileType.PACK, location.pack.hex()))
    if loss == "cut":
        site.repository.store.files[FileName(FileType.PACK, location.pack.hex())] = content[:1]


def test_a_snapshot_counts_its_disks_as_restic_does(tmp_path: Path) -> None:
    raw, top = new_raw(tmp_path), new_qcow2(tmp_path)
    vm = machine(disk("vda", raw), disk("vdb", top))
    site = Site(without(vm, {"vdb"}))
    first = site.back_up().restore_point
    site.host.change(vm)
    second = site.back_up().restore_point
    qemu_io(top, "write -P 9 0 64k")
    third = site.back_up().restore_point
    found = [site.repository.load_snapshot(point.id) for point in (first, second, third)]
    assert [snapshot.parent for snapshot in found] == [None, first.id, second.id]
    counts = [
        (it.summary.files_new, it.summary.files_changed, it.summary.files_unmodified) for it in found if it.summary
    ]
    assert counts == [(1, 0, 0), (1, 0, 1), (0, 1, 1)]


def test_what_cannot_be_put_back_after_the_commit_is_said_and_still_owed(tmp_path: Path) -> None:
    class Unstartable(FakeHypervisor):
        def start(self, uuid: str) -> None:
            raise HostError("cannot start web01: no memory")

    vm = machine(disk("vda", new_raw(tmp_path)), power=Power.RUNNING)
    site = Site(vm)
    site.host = site.hypervisor = Unstartable([vm])
    with pytest.raises(IncompleteError, match=r"was made, but.*no memory"):
        site.back_up(when_running=WhenRunning.SHUT_DOWN)
    assert len(site.points()) == 1
    assert [debt.kind for debt in site.ledger.debts()] == ["guest.start"]


def test_an_image_that_changes_while_it_is_read_makes_no_restore_point(tmp_path: Path) -> None:
    raw = new_raw(tmp_path)
    site = Site(machine(disk("vda", raw)))

    def write() -> None:
        with raw.open("r+b") as file:
            file.write(b"late")

    with pytest.raises(HostError, match="changed while it was read"):
        site.back_up(progress=Calling(write))
    assert (site.points(), site.ledger.debts()) == ([], [])


def test_small_changes_of_many_kinds_are_read_by_the_block(tmp_path: Path) -> None:
    top = new_qcow2(tmp_path)
    site = Site(machine(disk("vda", top)))
    site.back_up()
    for at in (0, 5 * BLOCK, 7 * BLOCK + 100 * KIB):
        qemu_io(top, f"write -P 99 {at} 512")
        report = site.back_up()
        assert report.disks[0].read == BLOCK
        assert site.restored() == truth(top)
