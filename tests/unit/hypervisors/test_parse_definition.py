# SPDX-License-Identifier: Apache-2.0
"""What is read from a definition: disks, side files, labels; and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from donjon.errors import ConfigError
from donjon.hypervisors.definition import parse_definition
from donjon.hypervisors.document import MAX_SIZE
from donjon.hypervisors.selection import matches
from donjon.model.vm import Device, Disk, Power, SideFile, Vm

DEFINITIONS = Path(__file__).parents[2] / "data" / "definitions"


def load(name: str) -> str:
    return (DEFINITIONS / f"{name}.xml").read_text(encoding="utf-8")


def parse(name: str) -> Vm:
    return parse_definition(load(name), "host1")


def domain(inside: str) -> str:
    return f"<domain>\n<name>web01</name>\n{inside}\n</domain>"


def test_a_vm_with_files_and_drives() -> None:
    assert parse("i440fx") == Vm(
        uuid="4dea22b3-1d52-48f3-a516-782e98ab3fa0",
        name="web01",
        host="host1",
        power=Power.UNKNOWN,
        disks=(
            Disk("vda", "/var/lib/libvirt/images/web01.qcow2", "qcow2"),
            Disk("vdb", "/srv/data/web01 data.img", "raw", shared=True),
            Disk("hda", "/srv/iso/debian-12.iso", "raw", Device.CDROM, read_only=True),
            Disk("hdb", None, None, Device.CDROM, read_only=True),
            Disk("fda", None, None, Device.FLOPPY),
        ),
        definition=load("i440fx"),
    )


def test_a_block_device_an_overlay_firmware_variables_and_a_tpm() -> None:
    vm = parse("q35-uefi-tpm")
    assert vm.disks == (
        Disk("sda", "/dev/vg0/win2022", "raw"),
        Disk("sdb", "/var/lib/libvirt/images/win2022-overlay.qcow2", "qcow2"),
    )
    assert vm.side_files == (
        SideFile("nvram", "/var/lib/libvirt/qemu/nvram/win2022_VARS.fd"),
        SideFile("tpm", "/var/lib/libvirt/swtpm/0d6b5a3c-6f0e-4d3e-9c53-8a6b0f1f2e3d/tpm2"),
    )


def test_files_of_a_direct_boot() -> None:
    assert parse("direct-kernel").side_files == (
        SideFile("nvram", "/srv/nvram/kernel-test.fd"),
        SideFile("tpm", "/var/lib/libvirt/swtpm/7b1f3a0e-55a5-4c5d-8d0f-1a2b3c4d5e6f/tpm1.2"),
        SideFile("kernel", "/srv/boot/vmlinuz"),
        SideFile("initrd", "/srv/boot/initrd.img"),
        SideFile("dtb", "/srv/boot/board.dtb"),
    )


def test_files_handed_over_by_the_firmware_and_a_tpm_elsewhere() -> None:
    assert parse("ignition").side_files == (
        SideFile("tpm", "/srv/tpm/coreos"),
        SideFile("seed", "/srv/ignition/coreos.ign"),
        SideFile("seed2", "/srv/ignition/more.bin"),
    )


def test_a_session_keeps_its_tpm_states_elsewhere() -> None:
    vm = parse_definition(load("direct-kernel"), "host1", tpm_root="/home/mia/swtpm")
    assert SideFile("tpm", "/home/mia/swtpm/7b1f3a0e-55a5-4c5d-8d0f-1a2b3c4d5e6f/tpm1.2") in vm.side_files


def test_volumes_are_found_by_who_knows_the_pools() -> None:
    vm = parse_definition(
        load("volumes"), "host1", volume_path=lambda pool, volume: None if pool == "gone" else f"/{pool}/{volume}"
    )
    assert vm.disks == (
        Disk("vda", "/default-pool/db1.qcow2", "qcow2"),
        Disk("vdb", None, "raw", remote="volume: gone/db1-data"),
        Disk("sda", "/default-pool/seed.iso", "raw", Device.CDROM, read_only=True),
    )
    assert vm.side_files == ()  # where the firmware's variables will be, only libvirt knows


def test_disks_that_are_no_local_files_are_named_not_forgotten() -> None:
    assert [(disk.target, disk.source, disk.remote) for disk in parse("network-disks").disks] == [
        ("vda", None, "network: rbd pool/image"),
        ("vdb", None, "nvme: pci 1"),
        ("fda", None, "dir: /srv/floppy"),
        ("vdc", None, "vhostuser: unix /run/vhost-blk.sock"),
        ("sda", "/dev/disk/by-id/wwn-0x5000c500", None),
        ("vdd", "/srv/images/secret.luks", None),
    ]
    assert parse("network-disks").disks[4].device is Device.LUN


def test_names_and_paths_come_through_whatever_they_hold() -> None:
    vm = parse("odd-names")
    assert vm.name == 'it\'s "größer" & <böse> 日本\nsecond line'
    assert vm.uuid == "90abcdef-1234-4567-89ab-cdef01234567"
    assert vm.disks == (Disk("vda", '/srv/ two  spaces/"quoted" & Ω\nline.img', "raw"),)
    assert vm.side_files == (SideFile("nvram", '/var/lib/libvirt/qemu/nvram/vars of "it\'s".fd'),)


def test_a_driver_without_format_leaves_the_format_open() -> None:
    assert parse("xen").disks == (Disk("xvda", "/dev/vg0/pv-guest"),)


def test_labels_are_those_of_our_namespace_however_it_is_written() -> None:
    assert parse("q35-uefi-tpm").labels == {"tier": "db", "owner": "R & D"}
    assert parse("ignition").labels == {"tier": "edge", "canary": ""}
    declared_outside = (
        "<domain xmlns:d='urn:donjon:vm:1'><name>a</name><metadata><d:labels><d:label key='k' value='v'/>"
        "</d:labels></metadata></domain>"
    )
    assert parse_definition(declared_outside, "host1").labels == {"k": "v"}
    assert parse("i440fx").labels == {}


def test_vms_are_selected_by_label() -> None:
    vm = parse("ignition")
    assert [matches(vm, selector) for selector in ("tier=edge", "tier", "canary=", "canary")] == [True] * 4
    assert [matches(vm, selector) for selector in ("tier=db", "tier=", "edge", "", "TIER=edge")] == [False] * 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not XML: line 1"),
        ("name: web01\n", "not XML: line 1"),
        ("<domain>\n<name>web01\n</domain>", "not XML: line 3"),
        ("\ud800", "not text"),
        ("<domain>&lol;</domain>", "not XML: line 1: undefined entity"),
        ("<!DOCTYPE domain><domain><name>a</name></domain>", "has a DOCTYPE"),
        ('<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain><name>&x;</name></domain>', "has a DOCTYPE"),
        ("<domain/>", "no <name>"),
        ("<domain><name> </name></domain>", "no <name>"),
        ("<network><name>default</name></network>", "its root is <network>, not <domain>"),
        (domain("<devices><disk><source file='/a'/></disk></devices>"), "a disk has no <target dev=...>"),
        (domain("<devices>" + "<disk><target dev='vda'/></disk>" * 2 + "</devices>"), "several disks are called vda"),
        (domain("<devices><disk device='tape'><target dev='st0'/></disk></devices>"), "disk st0 is an unknown device"),
        (domain("<uuid>../../../etc</uuid>"), "'../../../etc' is no UUID"),
        (domain("<uuid>6c0f8b1e-3a54-4d7c-9d8a</uuid>"), "'6c0f8b1e-3a54-4d7c-9d8a' is no UUID"),
        (domain("<x>" * 200 + "</x>" * 200), "more than 100 elements deep"),
        (domain(" " * MAX_SIZE), "larger than 4 MiB"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_what_is_no_definition_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_definition(text, "host1")
    assert str(raised.value).startswith(f"cannot read the definition: {reason}")
