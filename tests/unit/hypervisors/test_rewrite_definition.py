# SPDX-License-Identifier: Apache-2.0
"""A definition is pointed to restored files, and gets another identity only where one is asked for."""

from __future__ import annotations

import difflib
from pathlib import Path
from random import Random

import pytest

from donjon.errors import ConfigError
from donjon.hypervisors.definition import parse_definition, parse_domain
from donjon.hypervisors.identity import Rewritten, rewrite_definition
from donjon.model.vm import Disk, SideFile

DEFINITIONS = Path(__file__).parents[2] / "data" / "definitions"


def load(name: str) -> str:
    return (DEFINITIONS / f"{name}.xml").read_text(encoding="utf-8")


def restore(
    name: str,
    disks: dict[str, tuple[str, str]] | None = None,
    side_files: dict[str, str] | None = None,
    *,
    rename: str | None = None,
    new_identity: bool = False,
) -> Rewritten:
    return rewrite_definition(
        load(name),
        name=rename,
        new_identity=new_identity,
        disks=disks or {},
        side_files=side_files or {},
        random=Random(7),
    )


def changes(name: str, rewritten: Rewritten) -> list[str]:
    """The lines that are gone (-) and new (+), without the space around them."""
    lines = difflib.ndiff(load(name).splitlines(), rewritten.definition.splitlines())
    return [line[0] + line[1:].strip() for line in lines if line[0] in "+-"]


def test_a_restored_image_changes_two_lines_and_no_other() -> None:
    rewritten = restore("direct-kernel", {"vda": ("/restored/a b.qcow2", "qcow2")})
    assert changes("direct-kernel", rewritten) == [
        "-<source file='/srv/images/kernel-test.img'/>",
        "+<driver type='qcow2'/>",
        "+<source file='/restored/a b.qcow2'/>",
    ]
    assert rewritten.notes == ()


def test_what_described_the_old_image_goes_with_it() -> None:
    rewritten = restore("q35-uefi-tpm", {"sda": ("/new/a.qcow2", "qcow2"), "sdb": ("/dev/vg1/b", "raw")})
    vm = parse_definition(rewritten.definition, "host1")
    assert vm.disks == (Disk("sda", "/new/a.qcow2", "qcow2"), Disk("sdb", "/dev/vg1/b", "raw"))
    first, second = parse_domain(rewritten.definition).findall("devices/disk")
    assert (first.get("type"), second.get("type")) == ("file", "block")
    assert "win2022-base" not in rewritten.definition
    assert [child.tag for child in second] == ["driver", "source", "target"]


def test_a_running_guests_definition_loses_what_only_its_run_had() -> None:
    rewritten = restore("transient", {"vda": ("/new/a.qcow2", "qcow2")})
    domain = parse_domain(rewritten.definition)
    assert domain.get("id") is None
    disk = domain.find("devices/disk")
    assert disk is not None
    assert [child.tag for child in disk] == ["driver", "source", "target", "alias"]
    source = disk.find("source")
    assert source is not None
    assert (source.attrib, [child.tag for child in source]) == ({"file": "/new/a.qcow2"}, ["slices"])


def test_an_encrypted_image_is_still_known_as_one() -> None:
    rewritten = restore("network-disks", {"vdd": ("/new/secret.luks", "raw")})
    assert "<source file='/new/secret.luks'>\n        <encryption format='luks'>" in rewritten.definition


def test_network_disks_and_scsi_devices_become_files() -> None:
    rewritten = restore("network-disks", {"vda": ("/new/a.raw", "raw"), "sda": ("/new/b.raw", "raw")})
    disks = {disk.target: disk for disk in parse_definition(rewritten.definition, "host1").disks}
    assert disks["vda"] == Disk("vda", "/new/a.raw", "raw")
    assert disks["sda"] == Disk("sda", "/new/b.raw", "raw")
    assert "ceph" not in rewritten.definition.replace("ceph-guest", "")
    assert "sgio" not in rewritten.definition
    assert rewritten.notes == (
        "the medium in fda was not restored: the drive is empty",
        "disk sda was a SCSI device of the host: restored to a file, it is a plain disk",
        "disk vdb was not restored: it still is what the original uses",
        "disk vdc was not restored: it still is what the original uses",
        "disk vdd was not restored: it still is what the original uses",
    )


def test_another_vm_never_writes_to_disks_of_the_original() -> None:
    restored = {"vda": ("/new/a.raw", "raw"), "sda": ("/new/b.raw", "raw")}
    rewritten = restore("network-disks", restored, new_identity=True)
    disks = parse_definition(rewritten.definition, "host1").disks
    assert {disk.target: disk.source for disk in disks if disk.source} == {"vda": "/new/a.raw", "sda": "/new/b.raw"}
    assert rewritten.notes[-3:] == tuple(
        f"removed: disk {target}, which was not restored: the original may write to it"
        for target in ("vdb", "vdc", "vdd")
    )


def test_another_vm_keeps_what_it_can_only_read() -> None:
    disk = "<disk><source file='/base.iso'/><target dev='vdb'/><readonly/></disk>"
    text = f"<domain><name>a</name><devices>{disk}</devices></domain>"
    rewritten = rewrite_definition(text, new_identity=True, disks={}, side_files={})
    assert "/base.iso" in rewritten.definition
    assert rewritten.notes == ("disk vdb was not restored: it still is what the original uses",)


def test_a_medium_that_was_not_restored_leaves_an_empty_drive() -> None:
    disks = {"vda": ("/new/a", "raw"), "vdb": ("/new/b", "raw")}
    rewritten = restore("i440fx", disks)
    assert rewritten.notes == ("the medium in hda was not restored: the drive is empty",)
    assert [disk.source for disk in parse_definition(rewritten.definition, "h").disks] == [
        "/new/a",
        "/new/b",
        None,
        None,
        None,
    ]
    assert restore("i440fx", disks | {"hda": ("/new/debian.iso", "raw")}).notes == ()


def test_a_restored_disk_without_a_place_is_told() -> None:
    notes = restore("direct-kernel", {"vda": ("/new/a", "raw"), "vdz": ("/new/z", "raw")}).notes
    assert notes == ("the definition has no disk vdz: it was restored, but must be attached by hand",)


def test_a_name_with_anything_in_it_is_written_so_that_it_is_read_the_same() -> None:
    name = 'it\'s "new" & <odd> Ω'
    rewritten = restore("i440fx", rename=name)
    assert parse_definition(rewritten.definition, "host1").name == name


def test_firmware_variables_follow_the_name_and_the_restored_file() -> None:
    def nvram(rewritten: Rewritten) -> SideFile:
        return parse_definition(rewritten.definition, "host1").side_files[0]

    assert nvram(restore("q35-uefi-tpm", rename="b")) == SideFile("nvram", "/var/lib/libvirt/qemu/nvram/b_VARS.fd")
    assert nvram(restore("direct-kernel", rename="b")) == SideFile("nvram", "/srv/nvram/b.fd")
    assert nvram(restore("odd-names", rename="b")) == SideFile("nvram", "/var/lib/libvirt/qemu/nvram/b_VARS.fd")
    for name in ("q35-uefi-tpm", "direct-kernel", "volumes"):
        assert nvram(restore(name, side_files={"nvram": "/new/v.fd"}, rename="b")) == SideFile("nvram", "/new/v.fd")
    assert "template='/usr/share/OVMF/OVMF_VARS_4M.ms.fd'>" in restore("q35-uefi-tpm", rename="b").definition


def test_all_side_files_are_found_again_where_they_were_restored() -> None:
    kernel = {"kernel": "/new/vmlinuz", "initrd": "/new/initrd", "dtb": "/new/board.dtb"}
    ignition = {"seed": "/new/a.ign", "seed2": "/new/b.bin", "tpm": "/new/tpm"}
    for name, side_files in (("direct-kernel", kernel), ("ignition", ignition)):
        restored = parse_definition(restore(name, side_files=side_files).definition, "host1").side_files
        assert side_files.items() <= {file.role: file.path for file in restored}.items()


def test_a_new_identity_is_new_wherever_the_guest_could_meet_the_original() -> None:
    rewritten = restore("q35-uefi-tpm", rename="copy", new_identity=True)
    vm = parse_definition(rewritten.definition, "host1")
    assert vm.side_files[1] == SideFile("tpm", f"/var/lib/libvirt/swtpm/{vm.uuid}/tpm2")
    for old in ("0d6b5a3c-6f0e", "52:54:00:bb:00:01", "09b11c53-8b5c", "43dc0cf8-809b", ">win2022<"):
        assert old in load("q35-uefi-tpm")
        assert old not in rewritten.definition
    assert rewritten.definition.count(vm.uuid) == 2  # <uuid>, and SMBIOS, which must say the same
    assert "profileid='prod'" in rewritten.definition


def test_addresses_are_new_but_a_failover_pair_still_shares_its_own() -> None:
    domain = parse_domain(restore("ignition", new_identity=True).definition)
    macs = [mac.get("address", "") for mac in domain.findall("devices/interface/mac")]
    assert macs[0] == macs[1] != macs[2]
    assert all(mac.startswith("52:54:00:") and len(mac) == 17 for mac in macs)
    assert not {"52:54:00:11:11:11", "52:54:00:22:22:22"} & set(macs)


def test_a_tap_device_of_the_original_is_not_claimed_unless_the_operator_made_it() -> None:
    assert "web01-storage" not in restore("i440fx", new_identity=True).definition
    assert "web01-storage" in restore("i440fx").definition
    assert "<target dev='mytap0' managed='no'/>" in restore("ignition", new_identity=True).definition


def test_a_guest_that_comes_back_gets_another_generation_and_nothing_else_of_its_own() -> None:
    assert changes("q35-uefi-tpm", restore("q35-uefi-tpm"))[:2] == [
        "-<genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>",
        "+<genid/>",
    ]
    assert "0d6b5a3c-6f0e-4d3e-9c53-8a6b0f1f2e3d" in restore("q35-uefi-tpm").definition


def test_foreign_metadata_and_the_hypervisors_arguments_are_kept_as_they_are() -> None:
    rewritten = restore("ignition", {"vda": ("/new/a", "raw")}, new_identity=True)
    for kept in (
        "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'",
        "<ns0:app xmlns:ns0='http://example.org/app' ns0:level='3'><ns0:note>kept &lt;as is&gt;</ns0:note></ns0:app>",
        "<plain xmlns='http://example.org/plain'>no prefix</plain>",
        "<qemu:env name='QEMU_DEBUG' value='1'/>",
    ):
        assert kept in rewritten.definition
    assert rewritten.notes == (
        "the hypervisor's own arguments (commandline) were kept: they may name what the original uses",
    )


@pytest.mark.parametrize("text", ["", "<domain/>", "<!DOCTYPE d><domain><name>a</name></domain>"])
def test_what_is_no_definition_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the definition"):
        rewrite_definition(text, new_identity=True, disks={}, side_files={})


def test_identities_are_not_the_same_twice() -> None:
    def new_uuid() -> str:
        text = rewrite_definition(load("i440fx"), new_identity=True, disks={}, side_files={}).definition
        return parse_definition(text, "host1").uuid

    assert new_uuid() != new_uuid()
