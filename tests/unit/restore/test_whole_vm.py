# SPDX-License-Identifier: Apache-2.0
"""A lost VM comes back whole, beside what is there, or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from donjon.errors import ConfigError, DonjonError, HostError, IntegrityError, RefusedError
from donjon.hypervisors.definition import parse_definition
from donjon.model.progress import NoProgress
from donjon.model.restore_point import SideFilePoint
from donjon.model.vm import Power, Vm
from donjon.restore.plan import plan_definition
from donjon.restore.whole_vm import RestoreOptions, RestoreReport, restore_vm
from donjon.testing.faults import Faults
from donjon.testing.hypervisor import FakeHypervisor
from tests.unit.backup.site import MIB, UUID, Site, damage, disk, machine, new_qcow2, new_raw, qemu, truth
from tests.unit.restore.conftest import opened_for_writing

DEFINITION = """<domain type='kvm'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <os>
    <kernel>{folder}/vmlinuz</kernel>
    <nvram>{folder}/vars.fd</nvram>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{folder}/disk.qcow2'/>
      <target dev='vda'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{folder}/data.raw'/>
      <target dev='vdb'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda'/></disk>
    <interface type='network'><mac address='52:54:00:11:22:33'/></interface>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
  </devices>
</domain>
"""


class House(Site):
    """A VM with all that a VM can have, and the files as they were when it was backed up."""

    def __init__(self, folder: Path, name: str = "web01") -> None:
        self.folder = folder
        self.images = {"vda": new_qcow2(folder), "vdb": new_raw(folder)}
        self.tpm_root = folder / "swtpm"
        self.tpm = self.tpm_root / UUID / "tpm2"
        self.tpm.mkdir(parents=True)
        (self.tpm / "tpm2-00.permall").write_bytes(os.urandom(2000))
        (self.tpm / ".lock").write_bytes(b"")
        (self.tpm / "odd\nname %20").write_bytes(b"odd")
        self.tpm.chmod(0o711)
        (folder / "vars.fd").write_bytes(b"variables" * 1000)
        (folder / "vars.fd").chmod(0o640)
        (folder / "vmlinuz").write_bytes(os.urandom(MIB + 1))
        (folder / "vmlinuz").chmod(0o644)
        super().__init__(self.vm(name))
        self.disks = {"vda": truth(self.images["vda"]), "vdb": self.images["vdb"].read_bytes()}
        self.report = self.back_up()

    def vm(self, name: str) -> Vm:
        text = DEFINITION.format(name=name.replace("&", "&amp;").replace("<", "&lt;"), uuid=UUID, folder=self.folder)
        return parse_definition(text, "fakehost", power=Power.OFF, tpm_root=str(self.tpm_root))

    def restore(self, directory: Path, *, hypervisor: Any, **options: Any) -> RestoreReport:
        chosen = RestoreOptions(directory, tpm_root=directory / "tpm", **options)
        (point,) = self.points()
        return restore_vm(
            self.repository,
            point,
            self.ledger,
            chosen,
            NoProgress(),
            hypervisor=hypervisor,
        )


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modes and content by name."""
    return {
        path.name: (stat.S_IMODE(path.stat().st_mode), path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
        if path != folder
    }


def read_disk(path: str) -> bytes:
    image = Path(path)
    return truth(image) if image.suffix == ".qcow2" else image.read_bytes()


def test_a_vm_that_is_gone_comes_back_as_it_was(house: House, tmp_path: Path) -> None:
    host, to = FakeHypervisor(), tmp_path / "new" / "place"
    report = house.restore(to, hypervisor=host)
    vm = host.find_vm("web01")
    assert (vm.uuid, report.vm_uuid, report.defined) == (UUID, UUID, True)
    assert {disk.target: read_disk(disk.path) for disk in report.disks} == house.disks
    assert {disk.target: disk.source for disk in vm.disks} == {
        "vda": str(to / "web01-vda.qcow2"),
        "vdb": str(to / "web01-vdb.raw"),
        "sda": None,
    }
    nvram, kernel = to / "web01-nvram", to / "web01-kernel"
    assert {file.role: file.path for file in vm.side_files if file.role != "tpm"} == {
        "nvram": str(nvram),
        "kernel": str(kernel),
    }
    assert nvram.read_bytes() == (tmp_path / "vars.fd").read_bytes()
    assert stat.S_IMODE(nvram.stat().st_mode) == 0o640
    assert kernel.read_bytes() == (tmp_path / "vmlinuz").read_bytes()
    tpm = to / "tpm" / UUID / "tpm2"
    assert tree(tpm) == tree(house.tpm)
    assert stat.S_IMODE(tpm.stat().st_mode) == 0o711
    assert (to / "web01-vdb.raw").stat().st_blocks * 512 < 2.5 * MIB
    assert house.ledger.debts() == []
    assert not list(to.glob(".*"))


def test_under_another_name_it_is_another_vm_beside_the_first(house: House, tmp_path: Path) -> None:
    to = tmp_path / "new"
    report = house.restore(to, hypervisor=house.host, name="copy of it's", image_format="raw")
    copy = house.host.find_vm("copy of it's")
    assert copy.uuid not in ("", UUID)
    assert "52:54:00:11:22:33" not in (copy.definition or "")
    assert {disk.target: Path(disk.path).read_bytes() for disk in report.disks} == house.disks
    assert tree(to / "tpm" / copy.uuid / "tpm2") == tree(house.tpm)
    original = house.host.find_vm("web01")
    mine = {disk.source for disk in copy.disks} | {file.path for file in copy.side_files}
    theirs = {disk.source for disk in original.disks} | {file.path for file in original.side_files}
    assert mine & theirs == {None}


def test_into_a_directory_everything_is_there_and_nowhere_else(house: House, tmp_path: Path) -> None:
    to = tmp_path / "new"
    report = house.restore(to, hypervisor=None)
    assert {path.name for path in to.iterdir()} == {
        "web01-vda.qcow2",
        "web01-vdb.raw",
        "web01-nvram",
        "web01-kernel",
        "web01-tpm",
        "web01.xml",
    }
    assert tree(to / "web01-tpm") == tree(house.tpm)
    assert any("TPM" in note for note in report.notes)
    assert str(to / "web01-vda.qcow2") in (to / "web01.xml").read_text()


def test_a_vm_that_exists_is_refused_and_nothing_is_written(house: House, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="has a VM of that name or UUID") as refused:
        house.restore(tmp_path / "new", hypervisor=house.host)
    assert "--name" in (refused.value.hint or "")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "file", ["web01-vda.qcow2", "web01-vdb.raw", "web01-kernel", "web01.xml", f"tpm/{UUID}/tpm2", "web01-nvram"]
)
@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_a_file_that_exists_is_refused_and_left_alone(house: House, tmp_path: Path, file: str, kind: str) -> None:
    there = tmp_path / "new" / file
    there.parent.mkdir(parents=True)
    if kind == "file":
        there.write_bytes(b"precious")
    else:
        there.symlink_to("nowhere")
    before = sorted((tmp_path / "new").rglob("*"))
    with pytest.raises(RefusedError, match="it exists"):
        house.restore(tmp_path / "new", hypervisor=FakeHypervisor())
    assert sorted((tmp_path / "new").rglob("*")) == before
    assert there.is_symlink() or there.read_bytes() == b"precious"
    assert house.ledger.debts() == []


@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
def test_any_failure_leaves_nothing_new_or_all_of_it(house: House, tmp_path: Path, after: bool) -> None:
    """A VM that may have been defined after all keeps its files."""
    store, to = house.repository.store, tmp_path / "new"
    calls = 0
    for fail_at in range(1, 200):
        house.repository.store = faulty = Faults(store, fail_at, IntegrityError("cannot read"), after=after)
        host = FakeHypervisor()
        try:
            house.restore(to, hypervisor=host)
        except DonjonError:
            assert not to.exists()
            assert host.list_vms() == []
        else:
            for path in sorted(to.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            to.rmdir()
        assert house.ledger.debts() == []
        calls = max(calls, faulty.calls)
        if faulty.calls < fail_at:
            break
    assert calls > 5


@pytest.mark.parametrize("fail_at", [1, 2])
@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
def test_a_hypervisor_that_fails_leaves_all_or_nothing(house: House, tmp_path: Path, fail_at: int, after: bool) -> None:
    host, to = FakeHypervisor(), tmp_path / "new"
    with pytest.raises(HostError):
        house.restore(to, hypervisor=Faults(host, fail_at, HostError("connection lost"), after=after))
    defined = bool(host.list_vms())
    assert defined == (fail_at == 2 and after)
    assert to.exists() == defined
    if defined:
        assert read_disk(host.list_vms()[0].disks[0].source or "") == house.disks["vda"]
    assert house.ledger.debts() == []


def test_damage_in_the_midst_of_the_second_disk_leaves_nothing(house: House, tmp_path: Path) -> None:
    damage(house, "vdb", 3)
    with pytest.raises(IntegrityError):
        house.restore(tmp_path / "new", hypervisor=FakeHypervisor())
    assert not (tmp_path / "new").exists()


def test_a_relative_directory_is_written_out_in_the_definition(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    host = FakeHypervisor()
    house.restore(Path("new"), hypervisor=host)
    vm = host.find_vm("web01")
    assert all(disk.source is None or disk.source.startswith("/") for disk in vm.disks)
    assert all(file.path.startswith("/") for file in vm.side_files)


@pytest.mark.parametrize("name", ["n" * 255, "狐" * 85, "a/b", ".x", "100%", "new\nline", "a&b <c>"])
def test_a_vm_of_any_name_comes_back(tmp_path: Path, name: str) -> None:
    house = House(tmp_path, name)
    host = FakeHypervisor()
    report = house.restore(tmp_path / "new", hypervisor=host)
    assert host.find_vm(name).uuid == UUID
    assert {disk.target: read_disk(disk.path) for disk in report.disks} == house.disks


def test_devices_that_are_none_are_refused(house: House, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no block device"):
        house.restore(tmp_path / "new", hypervisor=None, devices=(("vda", tmp_path / "typo"),))
    with pytest.raises(ConfigError, match="vdz"):
        house.restore(tmp_path / "new", hypervisor=None, devices=(("vdz", Path("/dev/null")),))
    assert not (tmp_path / "new").exists()


def test_an_image_in_a_format_that_donjon_does_not_write_becomes_qcow2(tmp_path: Path) -> None:
    source = new_qcow2(tmp_path)
    vmdk = tmp_path / "disk.vmdk"
    qemu("qemu-img", "convert", "-f", "qcow2", "-O", "vmdk", source, vmdk)
    site = Site(machine(disk("vda", vmdk)))
    site.back_up()
    (point,) = site.points()
    report = restore_vm(
        site.repository, point, site.ledger, RestoreOptions(tmp_path / "new"), NoProgress(), hypervisor=None
    )
    assert [restored.image_format for restored in report.disks] == ["qcow2"]
    assert read_disk(report.disks[0].path) == truth(source)
    with pytest.raises(ConfigError, match="no definition"):
        options = RestoreOptions(tmp_path / "other")
        restore_vm(site.repository, point, site.ledger, options, NoProgress(), hypervisor=site.host)


@pytest.mark.root
def test_a_disk_goes_over_a_device_when_all_else_is_there(house: House, tmp_path: Path, device: Path) -> None:
    host = FakeHypervisor()
    report = house.restore(tmp_path / "new", hypervisor=host, devices=(("vdb", device),))
    assert device.read_bytes()[: len(house.disks["vdb"])] == house.disks["vdb"]
    assert [(disk.target, disk.path) for disk in report.disks][1] == ("vdb", str(device))
    assert host.find_vm("web01").disks[1].source == str(device)
    assert not (tmp_path / "new" / "web01-vdb.raw").exists()


@pytest.mark.root
@pytest.mark.parametrize("reason", ["damage", "too small", "in use", "a file is there", "twice"])
def test_a_device_is_not_touched_before_all_is_known_to_go_well(
    house: House, tmp_path: Path, device: Path, reason: str
) -> None:
    before, to = device.read_bytes(), tmp_path / "new"
    devices = [("vdb", device)]
    with ExitStack() as held:
        if reason == "damage":
            damage(house, "vdb", 3)
        elif reason == "in use":
            held.enter_context(opened_for_writing(device))
        elif reason == "a file is there":
            to.mkdir()
            (to / "web01-nvram").touch()
        elif reason == "twice":
            devices.append(("vda", device))
        else:
            subprocess.run(["truncate", "--size", "3M", tmp_path / "device"], check=True)
            subprocess.run(["losetup", "--set-capacity", device], check=True)
            before = before[: 3 * MIB]
        with pytest.raises((RefusedError, IntegrityError, ConfigError)):
            house.restore(to, hypervisor=FakeHypervisor(), devices=tuple(devices))
    assert device.read_bytes() == before
    assert house.ledger.debts() == []
    assert [path.name for path in to.glob("*")] == (["web01-nvram"] if reason == "a file is there" else [])


@pytest.mark.root
def test_a_link_to_a_device_in_the_directory_is_refused(house: House, tmp_path: Path, device: Path) -> None:
    before = device.read_bytes()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "web01-vdb.raw").symlink_to(device)
    with pytest.raises(RefusedError, match="it exists"):
        house.restore(tmp_path / "new", hypervisor=None)
    assert device.read_bytes() == before


@pytest.mark.parametrize("source", ["/etc/{uuid}", "{root}/{uuid}/tpm2/..", "{root}/../{uuid}/tpm2"])
def test_the_state_of_a_tpm_goes_nowhere_but_where_its_hypervisor_keeps_it(tmp_path: Path, source: str) -> None:
    """Whatever a definition says that comes from outside."""
    root = tmp_path / "swtpm"
    backend = "<backend type='emulator' version='2.0'/>"
    definition = DEFINITION.format(name="web01", uuid=UUID, folder="/images")
    named = definition.replace(
        backend, f"<backend type='emulator'><source path='{source.format(uuid=UUID, root=root)}'/></backend>"
    )
    assert backend in definition

    def place(text: str) -> Path:
        files = (SideFilePoint("tpm", "/somewhere", "/web01/files/tpm/tpm2"),)
        plan = plan_definition(
            text,
            directory=tmp_path,
            name="web01",
            new_name=None,
            new_identity=False,
            disks={},
            side_files=files,
            tpm_root=root,
        )
        return plan.side_paths["tpm"]

    assert place(definition) == root / UUID / "tpm2"
    assert place(named) == tmp_path / "web01-tpm"
