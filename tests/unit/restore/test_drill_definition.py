# SPDX-License-Identifier: Apache-2.0
"""A drilled guest has nothing of the original, of the host, or of anybody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from donjon.hypervisors.document import parse_document
from donjon.restore.drill_definition import Surroundings, isolate, traits

HARMLESS = (
    *("channel", "console", "disk", "disk", "emulator", "input", "interface", "interface"),
    *("rng", "serial", "serial", "tpm", "video"),
)
FOLDER = Path("/var/tmp/donjon-drill-1")
ORIGINAL = """<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web01-drill-1</name>
  <uuid>6c0f8b1e-3a54-4d7c-9d8a-0123456789ab</uuid>
  <metadata><donjon:vm xmlns:donjon="urn:donjon:vm:1"><donjon:label key='backup' value='yes'/></donjon:vm></metadata>
  <memory unit='GiB'>4</memory>
  <currentMemory unit='GiB'>2</currentMemory>
  <memoryBacking><hugepages/><locked/></memoryBacking>
  <cputune><vcpupin vcpu='0' cpuset='3'/></cputune>
  <numatune><memory mode='strict' nodeset='0'/></numatune>
  <os>
    <loader readonly='no' type='pflash'>/usr/share/OVMF/CODE.fd</loader>
    <nvram template='/usr/share/OVMF/VARS.fd'>/original/vars.fd</nvram>
  </os>
  <on_crash>coredump-restart</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' io='native'/>
      <source file='/var/tmp/donjon-drill-1/vda.qcow2'><reservations managed='yes'/></source>
      <target dev='vda'/><shareable/><transient/>
    </disk>
    <disk type='block' device='lun'><source dev='/original/lun'/><target dev='sdb'/></disk>
    <disk type='file' device='cdrom'><source file='/original/iso'/><target dev='sda'/></disk>
    <disk type='file' device='cdrom'><target dev='sdc'/></disk>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:01'/><source bridge='original-br'/><model type='virtio'/>
      <virtualport type='openvswitch'/><vlan><tag id='7'/></vlan><filterref filter='original-filter'/>
    </interface>
    <interface type='hostdev' managed='yes'><source><address type='pci' domain='0' bus='9'/></source></interface>
    <serial type='tcp'><source mode='connect' host='original-host' service='1'/><target port='0'/></serial>
    <serial type='file'><source path='/original/serial'/><log file='/original/log'/><target port='1'/></serial>
    <console type='tcp'><source mode='connect' host='original-host'/><target type='serial' port='0'/></console>
    <console type='unix'><source path='/original/virtio'/><target type='virtio' port='1'/></console>
    <parallel type='dev'><source path='/original/lp0'/></parallel>
    <channel type='unix'><source path='/original/agent'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='unix'><source path='/original/other'/><target type='virtio' name='other'/></channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <input type='evdev'><source dev='/original/event'/></input>
    <input type='tablet' bus='usb'/>
    <tpm model='tpm-tis'><backend type='passthrough'><device path='/original/tpm'/></backend></tpm>
    <tpm model='tpm-crb'><backend type='emulator'><source type='dir' path='/original/swtpm'/></backend></tpm>
    <graphics type='spice' port='5900' listen='0.0.0.0'/>
    <audio id='1' type='file'><output path='/original/wav'/></audio>
    <video><model type='virtio'><acceleration accel3d='yes'/></model></video>
    <hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/></source></hostdev>
    <redirdev bus='usb' type='tcp'><source mode='connect' host='original-host' service='4000'/></redirdev>
    <filesystem type='mount'><source dir='/original/share'/><target dir='share'/></filesystem>
    <shmem name='original-shmem'><model type='ivshmem-plain'/></shmem>
    <vsock model='virtio'><cid auto='no' address='3'/></vsock>
    <smartcard mode='host'/>
    <rng model='virtio'><backend model='egd' type='udp'><source host='original-host'/></backend></rng>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memory model='nvdimm'><source><path>/original/nvdimm</path></source></memory>
    <lease><lockspace>original-space</lockspace><key>1</key><target path='/original/lease'/></lease>
    <unheard-of source='/original/future'/>
  </devices>
  <seclabel type='static' model='selinux'><label>original-label</label></seclabel>
  <qemu:commandline><qemu:arg value='-drive'/><qemu:arg value='file=/original/raw'/></qemu:commandline>
</domain>
"""


def around(network: str | None = "donjon-drill-1", memory_mib: int | None = None) -> Surroundings:
    return Surroundings(FOLDER, {"vda"}, FOLDER / "console", network, memory_mib)


def test_nothing_of_the_original_is_left() -> None:
    isolated = isolate(ORIGINAL, around())
    assert "original" not in isolated.definition
    assert "cputune" not in isolated.definition
    told = " ".join(isolated.notes)
    for what in ("hostdev", "redirdev", "filesystem", "shmem", "vsock", "smartcard", "lease", "unheard-of", "sdb"):
        assert what in told
    assert "qemu:commandline" in told


def test_all_devices_left_are_harmless() -> None:
    devices = parse_document(isolate(ORIGINAL, around()).definition).find("devices")
    assert devices is not None
    assert sorted(device.tag for device in devices) == list(HARMLESS)


def test_every_interface_is_in_the_isolated_network_and_keeps_its_address() -> None:
    domain = parse_document(isolate(ORIGINAL, around()).definition)
    interfaces = domain.findall("devices/interface")
    assert [interface.attrib for interface in interfaces] == [{"type": "network"}] * 2
    assert [interface.findall("source")[0].attrib for interface in interfaces] == [{"network": "donjon-drill-1"}] * 2
    assert {child.tag for interface in interfaces for child in interface} == {"mac", "model", "source"}


def test_without_a_network_there_are_no_interfaces_and_it_is_said() -> None:
    isolated = isolate(ORIGINAL, around(network=None))
    assert "<interface" not in isolated.definition
    assert any("network interfaces" in note for note in isolated.notes)


def test_the_first_console_goes_to_the_file_and_others_nowhere() -> None:
    domain = parse_document(isolate(ORIGINAL, around()).definition)
    consoles = [*domain.findall("devices/serial"), *domain.findall("devices/console")]
    assert [console.get("type") for console in consoles] == ["file", "null", "null"]
    assert [source.get("path") for source in domain.iterfind("devices/serial/source")] == [str(FOLDER / "console")]


def test_it_writes_to_its_overlay_as_fast_as_can_be_and_shares_it_with_nobody() -> None:
    domain = parse_document(isolate(ORIGINAL, around()).definition)
    (disk,) = [disk for disk in domain.findall("devices/disk") if disk.find("source") is not None]
    assert {child.tag for child in disk} == {"driver", "source", "target"}
    driver = disk.find("driver")
    assert driver is not None
    assert driver.attrib == {"name": "qemu", "type": "qcow2", "cache": "unsafe"}


def test_firmware_variables_of_its_own_stay() -> None:
    own = ORIGINAL.replace("/original/vars.fd", str(FOLDER / "web01-nvram"))
    assert str(FOLDER / "web01-nvram") in isolate(own, around()).definition
    sly = ORIGINAL.replace("/original/vars.fd", f"{FOLDER}/../../original/vars.fd")
    assert "original" not in isolate(sly, around()).definition
    assert "readonly='yes'" in isolate(ORIGINAL, around()).definition


def test_a_crash_leaves_no_dump_on_the_host() -> None:
    assert parse_document(isolate(ORIGINAL, around()).definition).findtext("on_crash") == "destroy"


@pytest.mark.parametrize(("memory_mib", "kib"), [(1024, 1024 << 10), (8192, None), (None, None)])
def test_memory_is_lowered_and_never_raised(memory_mib: int | None, kib: int | None) -> None:
    domain = parse_document(isolate(ORIGINAL, around(memory_mib=memory_mib)).definition)
    memory = domain.find("memory")
    assert memory is not None
    expected = (str(kib), "KiB") if kib else ("4", "GiB")
    assert (memory.text, memory.get("unit")) == expected
    assert domain.findtext("currentMemory") == (str(kib) if kib else "2")


def test_memory_in_numa_cells_stays_and_it_is_said() -> None:
    text = ORIGINAL.replace("<os>", "<cpu><numa><cell id='0' cpus='0' memory='4' unit='GiB'/></numa></cpu><os>")
    isolated = isolate(text, around(memory_mib=512))
    assert "<memory unit='GiB'>4</memory>" in isolated.definition
    assert any("NUMA" in note for note in isolated.notes)


def test_what_can_be_checked_is_seen() -> None:
    assert traits(ORIGINAL) == (True, True, True, True)
    assert traits("<domain><name>a</name></domain>") == (False, False, False, False)
