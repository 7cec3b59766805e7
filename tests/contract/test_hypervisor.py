# SPDX-License-Identifier: Apache-2.0
"""What every hypervisor does the same way: the fake one, and libvirt's own test driver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from donjon.errors import ConfigError, HostError, RefusedError
from donjon.hypervisors.hypervisor import Hypervisor
from donjon.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from donjon.model.vm import Disk, Power
from donjon.testing.hypervisor import FakeHypervisor

WEB = """
<domain type='test'>
  <name>web01</name>
  <uuid>11111111-2222-4333-8444-555555555555</uuid>
  <title>shop</title>
  <metadata>
    <donjon:labels xmlns:donjon='urn:donjon:vm:1'><label key='tier' value='web'/></donjon:labels>
  </metadata>
  <memory unit='KiB'>8192</memory>
  <os><type>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/images/web01.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""
WEB_UUID = "11111111-2222-4333-8444-555555555555"

NODE = """
<node>
  <pool type='dir'><name>images</name><target><path>/images</path></target></pool>
</node>
"""


@pytest.fixture(params=["fake", "libvirt"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hypervisor]:
    """A host without VMs, and with a storage pool "images" in /images."""
    if request.param == "fake":
        yield FakeHypervisor(pools={"images": Path("/images")})
        return
    pytest.importorskip("libvirt")
    (tmp_path / "node.xml").write_text(NODE)
    with LibvirtHypervisor(f"test://{tmp_path}/node.xml") as hypervisor:
        yield hypervisor


def test_a_new_vm_is_found_by_name_and_uuid_and_is_off(host: Hypervisor) -> None:
    assert host.list_vms() == []
    vm = host.define(WEB)
    assert host.find_vm("web01") == host.find_vm(WEB_UUID) == host.find_vm(WEB_UUID.upper()) == vm
    assert [vm.name for vm in host.list_vms()] == ["web01"]
    assert (vm.uuid, vm.power, vm.host) == (WEB_UUID, Power.OFF, host.host_name)
    assert vm.disks == (Disk("vda", "/images/web01.qcow2", "qcow2"),)
    assert vm.labels == {"tier": "web"}
    assert "<title>shop</title>" in (vm.definition or "")


def test_vms_are_listed_by_name(host: Hypervisor) -> None:
    for name in ("web02", "db", "web01"):
        host.define(WEB.replace("web01", name).replace(f"<uuid>{WEB_UUID}</uuid>", ""))
    assert [vm.name for vm in host.list_vms()] == ["db", "web01", "web02"]
    assert len({vm.uuid for vm in host.list_vms()}) == 3


def test_an_unknown_vm_is_an_error_that_names_close_ones(host: Hypervisor) -> None:
    host.define(WEB)
    with pytest.raises(HostError, match="cannot find the VM 'web1'") as raised:
        host.find_vm("web1")
    assert raised.value.hint == "did you mean 'web01'?"


def test_shutting_down_and_starting_may_be_repeated(host: Hypervisor) -> None:
    host.define(WEB)
    for ask, power in [(host.start, Power.RUNNING), (lambda uuid: host.shut_down(uuid, 5), Power.OFF)]:
        for _ in range(2):
            ask(WEB_UUID)
            assert host.power(WEB_UUID) is host.find_vm("web01").power is power


def test_suspending_and_resuming_may_be_repeated(host: Hypervisor) -> None:
    host.define(WEB)
    host.start(WEB_UUID)
    for ask, power in [(host.suspend, Power.PAUSED), (host.resume, Power.RUNNING)]:
        for _ in range(2):
            ask(WEB_UUID)
            assert host.power(WEB_UUID) is power


def test_a_vm_that_is_off_cannot_be_suspended_and_need_not_be_resumed(host: Hypervisor) -> None:
    host.define(WEB)
    with pytest.raises(HostError, match="cannot suspend web01"):
        host.suspend(WEB_UUID)
    host.resume(WEB_UUID)
    assert host.power(WEB_UUID) is Power.OFF


def test_a_suspended_vm_is_not_shut_down_and_starting_it_leaves_it_suspended(host: Hypervisor) -> None:
    host.define(WEB)
    host.start(WEB_UUID)
    host.suspend(WEB_UUID)
    with pytest.raises(HostError, match="cannot shut down web01: it is paused"):
        host.shut_down(WEB_UUID, 5)
    host.start(WEB_UUID)
    assert host.power(WEB_UUID) is Power.PAUSED


@pytest.mark.parametrize(
    "second",
    [WEB, WEB.replace("web01", "web02"), WEB.replace(WEB_UUID, WEB_UUID.replace("1", "9"))],
    ids=["both", "uuid", "name"],
)
def test_a_vm_that_exists_is_never_redefined(host: Hypervisor, second: str) -> None:
    first = host.define(WEB)
    with pytest.raises(RefusedError, match=r"web01 \(11111111-.*\) exists"):
        host.define(second.replace("shop", "other"))
    assert host.list_vms() == [first]


@pytest.mark.parametrize("text", ["", "not XML", "<domain/>", "<!DOCTYPE domain><domain><name>web01</name></domain>"])
def test_what_is_no_definition_is_not_defined(host: Hypervisor, text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the definition"):
        host.define(text)
    assert host.list_vms() == []


def test_a_storage_pool_has_a_directory(host: Hypervisor) -> None:
    assert host.pool_path("images") == Path("/images")
    with pytest.raises(HostError, match="cannot find the storage pool 'image'"):
        host.pool_path("image")


@pytest.mark.parametrize("name", ["two words", 'it\'s "quoted"', "<b> & co", "größer-Ω-日本", "-r"])
def test_names_may_hold_anything_a_hypervisor_takes(host: Hypervisor, name: str) -> None:
    vm = host.define(WEB.replace("web01", escape(name, {"'": "&apos;"})))
    assert (vm.name, host.find_vm(name)) == (name, vm)


def test_an_unknown_uuid_is_an_error(host: Hypervisor) -> None:
    for ask in (host.power, host.start, host.suspend, host.resume, lambda uuid: host.shut_down(uuid, 1)):
        with pytest.raises(HostError, match=f"cannot find the VM '?{WEB_UUID}"):
            ask(WEB_UUID)
