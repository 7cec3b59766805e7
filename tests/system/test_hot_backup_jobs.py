# SPDX-License-Identifier: Apache-2.0
"""libvirt keeps the contract of backup jobs, with guests that boot nothing and are written to by QEMU itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.sax.saxutils import quoteattr

import pytest

from donjon.errors import HostError, RefusedError
from donjon.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from donjon.model.vm import Power
from donjon.testing.hot_backup_contract import FIRST, TARGETS, HotBackupContract, back_up
from lab.guest import virsh
from lab.programs import run

pytestmark = pytest.mark.system

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>{disks}<controller type='usb' model='none'/><memballoon model='none'/></devices>
</domain>
"""
DISK = "<disk type='file'><driver name='qemu' type='qcow2'/><source file={}/><target dev='{}'/></disk>"
GONE_S = 20.0


@dataclass
class EmptyGuest:
    """Of the lab's libvirt."""

    folder: Path
    uri: str
    uuid: str
    name: str
    host: LibvirtHypervisor

    def write(self, target: str, offset: int, data: bytes) -> None:
        device = f"/machine/peripheral/virtio-disk{TARGETS.index(target)}/virtio-backend"
        self._monitor(f'qemu-io -d {device} "write -P {data[0]} {offset} {len(data)}"')

    def kill(self) -> None:
        os.kill(self._process(), signal.SIGKILL)
        deadline = time.monotonic() + GONE_S
        while self.host.power(self.uuid) is not Power.OFF and time.monotonic() < deadline:
            time.sleep(0.05)
        self.start()

    def shut_off(self) -> None:
        self.host.destroy(self.uuid)

    def start(self) -> None:
        self.host.start(self.uuid)

    def forget_checkpoints(self) -> None:
        for checkpoint in self.host.checkpoints(self.uuid):
            virsh(self.uri, "checkpoint-delete", self.name, checkpoint.name, "--metadata")

    def _process(self) -> int:
        """Of QEMU, as seen from here: by its command line, which has the name of an image."""
        image = str(self.folder / "vda.qcow2").encode()
        for process in Path("/proc").iterdir():
            if process.name.isdecimal() and process.name != str(os.getpid()):
                try:
                    command = (process / "cmdline").read_bytes()
                except OSError:
                    continue
                if image in command and b"qemu-system" in command.partition(b"\0")[0]:
                    return int(process.name)
        raise AssertionError("no QEMU runs this guest")

    def _monitor(self, command: str) -> None:
        answer = virsh(self.uri, "qemu-monitor-command", self.name, "--hmp", command)
        assert "wrote" in answer or not answer.strip(), answer


@pytest.fixture
def guest(libvirt_uri: str) -> Iterator[EmptyGuest]:
    """A guest without a system: a second in all."""
    with TemporaryDirectory(prefix="donjon-") as name, LibvirtHypervisor(libvirt_uri) as host:
        folder = Path(name)
        disks = ""
        for target in TARGETS:
            image = folder / f"{target}.qcow2"
            run("qemu-img", "create", "-q", "-f", "qcow2", image, "8M")
            disks += DISK.format(quoteattr(str(image)), target)
        vm = host.define(DOMAIN.format(name="we&amp;b", disks=disks))
        host.start(vm.uuid)
        yield EmptyGuest(folder, libvirt_uri, vm.uuid, vm.name, host)
        host.destroy(vm.uuid)
        host.undefine(vm.uuid)


class TestLibvirt(HotBackupContract):
    """The suite as it is."""


def test_a_disk_is_fetched_from_behind_and_the_guest_goes_without_its_images(guest: EmptyGuest) -> None:
    host, uuid = guest.host, guest.uuid
    host.begin_pull(uuid, "vda")
    deadline = time.monotonic() + GONE_S
    while host.pull_progress(uuid, "vda") is not None:
        assert time.monotonic() < deadline
    host.cancel_pull(uuid, "vda")
    with pytest.raises(HostError, match="cannot undefine we&b: it is on"):
        host.undefine(uuid)
    back_up(guest, ("vda", None), new=FIRST)
    for _ in range(2):
        host.destroy(uuid)
    for _ in range(2):
        host.undefine(uuid)
    assert host.list_vms() == []
    assert (guest.folder / "vda.qcow2").exists()


def test_a_guest_without_a_screen_has_no_picture_and_without_a_file_no_console(guest: EmptyGuest) -> None:
    with pytest.raises(HostError, match="cannot take a picture of the screen of we&b"):
        guest.host.screenshot(guest.uuid)
    assert guest.host.console_path(guest.uuid) is None


@pytest.mark.root
def test_an_isolated_network_has_no_way_out_and_another_is_not_taken_for_one(libvirt_uri: str, tmp_path: Path) -> None:
    name, other = 'drill "a" & b', tmp_path / "network.xml"
    other.write_text("<network><name>other</name><forward mode='bridge'/><bridge name='djother'/></network>")
    with LibvirtHypervisor(libvirt_uri) as host:
        for _ in range(2):
            host.create_isolated_network(name)
        definition = virsh(libvirt_uri, "net-dumpxml", name)
        assert "<forward" not in definition
        assert "<ip" not in definition
        virsh(libvirt_uri, "net-create", str(other))
        with pytest.raises(RefusedError, match="not isolated"):
            host.create_isolated_network("other")
        for found in (name, name, "other"):
            host.delete_network(found)
    assert virsh(libvirt_uri, "net-list", "--all", "--name").strip() == "other"
    virsh(libvirt_uri, "net-destroy", "other")
