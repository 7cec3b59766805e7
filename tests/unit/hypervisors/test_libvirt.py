# SPDX-License-Identifier: Apache-2.0
"""What only libvirt has: volumes, transient and read-only views, and ways of being out of reach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from donjon.model.vm import Disk, Power

libvirt = pytest.importorskip("libvirt")

NODE = """
<node xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
  <pool type='dir'>
    <name>images</name>
    <target><path>/images</path></target>
    <volume><name>web.qcow2</name><capacity>1000000</capacity><target><path>/images/web.qcow2</path></target></volume>
  </pool>
  <pool type='logical'>
    <name>vg0</name>
    <source><device path='/dev/sda1'/><name>vg0</name></source>
    <target><path>/dev/vg0</path></target>
  </pool>
  <domain type='test'>
    <name>runner</name>
    <memory>8192</memory>
    <os><type>hvm</type></os>
    <test:transient/>
  </domain>
  <domain type='test'>
    <name>saved</name>
    <memory>8192</memory>
    <os><type>hvm</type></os>
    <test:runstate>5</test:runstate>
    <test:hasmanagedsave/>
  </domain>
  <domain type='test'>
    <name>crashed</name>
    <memory>8192</memory>
    <os><type>hvm</type></os>
    <test:runstate>6</test:runstate>
  </domain>
  <domain type='test'>
    <name>web</name>
    <memory>8192</memory>
    <os><type>hvm</type></os>
    <devices>
      <disk type='volume' device='disk'>
        <driver type='qcow2'/><source pool='images' volume='web.qcow2'/><target dev='vda'/>
      </disk>
      <disk type='volume' device='disk'>
        <driver type='raw'/><source pool='images' volume='lost'/><target dev='vdb' bus='virtio'/>
      </disk>
      <graphics type='vnc' port='5900' passwd='hush'/>
    </devices>
  </domain>
</node>
"""


@pytest.fixture
def uri(tmp_path: Path) -> str:
    (tmp_path / "node.xml").write_text(NODE)
    return f"test://{tmp_path}/node.xml"


def test_volumes_are_found_in_their_pools_and_lost_ones_are_told(uri: str) -> None:
    with LibvirtHypervisor(uri) as host:
        assert host.find_vm("web").disks == (
            Disk("vda", "/images/web.qcow2", "qcow2"),
            Disk("vdb", None, "raw", remote="volume: images/lost"),
        )
        assert [note for note in host.notes if "cannot find the volume 'lost'" in note] == list(host.notes) != []


def test_the_kept_definition_has_its_passwords_and_nothing_of_the_present_run(uri: str) -> None:
    with LibvirtHypervisor(uri) as host:
        vm = host.find_vm("web")
    assert vm.power is Power.RUNNING
    assert "passwd='hush'" in (vm.definition or "")
    assert "<domain type='test'>" in (vm.definition or "")


def test_a_definition_changed_while_the_guest_runs_is_kept_but_its_present_disks_are_meant(uri: str) -> None:
    with LibvirtHypervisor(uri) as host:
        kept = (host.find_vm("web").definition or "").replace("dev='vdb'", "dev='vdc'")
        host._connection.handle.defineXML(kept)
        vm = host.find_vm("web")
        assert ("vdc" in (vm.definition or ""), [disk.target for disk in vm.disks]) == (True, ["vda", "vdb"])
        assert host.notes[-1] == "web runs with other disks than its definition has; those it runs with are meant"


def test_a_transient_vm_is_not_shut_down_as_it_could_not_be_started_again(uri: str) -> None:
    with LibvirtHypervisor(uri) as host:
        vm = host.find_vm("runner")
        with pytest.raises(HostError, match="transient") as raised:
            host.shut_down(vm.uuid, 5)
        assert raised.value.hint == "suspend it instead"
        assert host.power(vm.uuid) is Power.RUNNING


def test_a_saved_guest_counts_as_paused_and_a_crashed_one_as_unknown(uri: str) -> None:
    with LibvirtHypervisor(uri) as host:
        powers = {vm.name: vm.power for vm in host.list_vms()}
        assert powers == {
            "crashed": Power.UNKNOWN,
            "runner": Power.RUNNING,
            "saved": Power.PAUSED,
            "web": Power.RUNNING,
        }
        saved = host.find_vm("saved").uuid
        host.resume(saved)
        assert host.power(saved) is Power.PAUSED, "resume must not start a guest"


def test_only_pools_that_are_directories_have_a_path(uri: str) -> None:
    with LibvirtHypervisor(uri) as host:
        with pytest.raises(HostError, match="'vg0': it is no directory but of type logical"):
            host.pool_path("vg0")
        with pytest.raises(HostError) as raised:
            host.pool_path("image")
        assert raised.value.hint == "did you mean 'images'?"


def test_who_may_only_look_sees_all_but_passwords_and_is_told(uri: str) -> None:
    def deny(_uri: str) -> None:
        error = libvirt.libvirtError("denied")
        error.err = (libvirt.VIR_ERR_AUTH_FAILED, 0, "authentication failed: no", 2, None, None, None, 0, 0)
        raise error

    with LibvirtHypervisor(uri, open_fully=deny) as host:
        vm = host.find_vm("web")
        assert "hush" not in (vm.definition or "")
        assert "passwords in definitions are not kept" in host.notes[0]
        with pytest.raises(HostError, match=r"cannot suspend web: .*read only"):
            host.suspend(vm.uuid)


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("nonsense", "qemu:///system"),
        ("qemu+unix:///system?socket=/nonexistent/socket", "is libvirtd running there"),
    ],
)
def test_what_is_out_of_reach_is_told_in_one_sentence(uri: str, hint: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HostError, match="cannot connect to libvirt at ") as raised:
        LibvirtHypervisor(uri)
    assert hint in (raised.value.hint or "")
    assert capfd.readouterr() == ("", ""), "libvirt printed its error by itself"


def test_without_libvirts_python_module_the_operator_learns_what_to_do() -> None:
    program = """
import sys
sys.modules["libvirt"] = None
from donjon.errors import HostError
from donjon.hypervisors.libvirt.hypervisor import LibvirtHypervisor
try:
    LibvirtHypervisor("test:///default")
except HostError as error:
    print(error, error.hint)
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "cannot use libvirt: its Python module is not installed" in output
    assert "--definition and --disk" in output


def test_libvirt_is_not_loaded_before_it_is_needed() -> None:
    program = "import donjon.hypervisors.libvirt.hypervisor, sys; print('libvirt' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )
