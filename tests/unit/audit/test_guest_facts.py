# SPDX-License-Identifier: Apache-2.0
"""VMs, images and storage, as hypervisors and the host tell of them; and that nonsense is never believed."""

from __future__ import annotations

import json
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.audit.bundle import Bundle, Manifest, Output
from donjon.audit.controls.emulator import debuggers, displays, monitors
from donjon.audit.fact import Known, Unknown
from donjon.audit.facts.domain_ovm import parse_assignments
from donjon.audit.facts.domain_xen import parse_disk
from donjon.audit.facts.domain_xm import parse_expressions
from donjon.audit.facts.domains import Domain, read_domains
from donjon.audit.facts.hardware import read_hardware
from donjon.audit.facts.host import Host, read_host
from donjon.audit.facts.image_headers import parse_header
from donjon.audit.facts.images import follow, parse_headers, read_images
from donjon.audit.facts.storage import parse_exports, parse_mounts, read_storage

UUID = "6f1d0c2a-0000-4000-8000-000000000001"
PROBES = [
    *("domains", "domain-pids", "domain-passwords", "xl-domains", "xm-domains", "xen-definitions", "libvirt-networks"),
    *("openvswitch-ports", "pci-devices", "virtual-functions", "cpu-flags", "guest-kernels", "images", "image-headers"),
    *("mounts", "loops", "mapped", "network-block-devices", "physical-volumes", "logical-volumes", "lvm-settings"),
    "iscsi-nodes",
]


def bundle(kinds: str, **outputs: str) -> Bundle:
    said = {name.replace("_", "-"): Output(0, text) for name, text in outputs.items()}
    return Bundle(Manifest(), {"hypervisors": Output(0, kinds), **said})


def only_domain(bundle: Bundle) -> Domain:
    domains = read_domains(bundle).all
    assert isinstance(domains, Known), domains
    (domain,) = domains.value
    return domain


def xl_list(name: str) -> str:
    return json.dumps([{"domid": 4, "config": {"c_info": {"name": name, "uuid": UUID}, "b_info": {"max_memkb": 2048}}}])


def test_a_running_vm_and_its_file_are_one_vm() -> None:
    file = f"@file /etc/xen/auto/db\nname = 'db'\nuuid = '{UUID}'\non_crash = 'coredump-restart'\n@end\n"
    vm = only_domain(bundle("xl", xl_domains=xl_list("db"), xen_definitions=file))
    assert (vm.running, vm.autostart, vm.file, vm.on_crash) == (True, True, "/etc/xen/auto/db", "")
    assert vm.stored is not None
    assert [(when, state.on_crash) for when, state in vm.states] == [
        ("now", ""),
        ("at its next start", "coredump-restart"),
    ]


def test_a_vm_of_one_hypervisor_is_not_enough_while_another_is_silent() -> None:
    silent = bundle("libvirt-qemu\nxl", xl_domains=xl_list("db"), xen_definitions="@end\n")
    assert read_domains(silent).all == Unknown("the collector did not run domains")


def test_a_file_is_read_but_never_executed() -> None:
    assert parse_assignments("name = 'a'\ndisk = ['x', 'y']\ndisk += ['z']\n'''text'''\n") == {
        "name": "a",
        "disk": ["x", "y", "z"],
    }
    for program in ("import os", "name = open('/etc/shadow').read()", "name = 'a' * 10**9", "[name for name in 'a']"):
        with pytest.raises(ValueError, match="does not assign"):
            parse_assignments(program)


@pytest.mark.parametrize(
    ("spec", "target", "source", "form", "mode"),
    [
        ("file:/OVS/d.img,xvda,w", "xvda", "/OVS/d.img", "raw", "rw"),
        ("phy:/dev/mapper/3600,xvdb,w!", "xvdb", "/dev/mapper/3600", "raw", "rw shared"),
        ("file:/i.iso,hdc:cdrom,r", "hdc", "/i.iso", "raw", "ro"),
        ("tap:aio:/d.img,xvda,w", "xvda", "/d.img", "raw", "rw"),
        ("/d.qcow2,qcow2,xvda", "xvda", "/d.qcow2", "qcow2", "rw"),
        ("/dev/vg/lv,,xvda,ro", "xvda", "/dev/vg/lv", "raw", "ro"),
        ("format=qcow2, vdev=xvda, access=rw, target=/a,b.img", "xvda", "/a,b.img", "qcow2", "rw"),
        ("vdev=hdc,access=ro,devtype=cdrom,target=", "hdc", "", "raw", "ro"),
    ],
)
def test_a_disk_of_xen_in_each_of_its_spellings(spec: str, target: str, source: str, form: str, mode: str) -> None:
    disk = parse_disk(spec)
    said = ("ro" if disk.read_only else "rw") + (" shared" if disk.shareable else "")
    assert (disk.target, disk.source, disk.format, said) == (target, source, form, mode)


def test_what_xend_prints_is_the_same_vm() -> None:
    text = (
        f"(domain (domid 3) (uuid {UUID}) (name db) (memory 512) (vcpus 2) (on_crash restart)"
        " (image (linux (kernel /boot/vm) (args 'root=/dev/xvda1')))"
        " (device (vbd (uname file:/d.img) (dev xvda:disk) (mode w)))"
        " (device (vif (bridge c0a8) (mac 00:21:F6:00:00:01)))"
        " (device (vfb (vnc 1) (vnclisten 0.0.0.0) (vncpasswd set))))"
    )
    vm = only_domain(bundle("oracle-vm", xm_domains=text, xen_definitions="@end\n"))
    assert (vm.name, vm.vcpus, vm.kernel, vm.disks[0].source) == ("db", 2, "/boot/vm", "/d.img")
    assert (vm.nics[0].mac, vm.consoles[0].listen, vm.consoles[0].has_password) == (
        "00:21:f6:00:00:01",
        ("0.0.0.0",),
        True,
    )
    assert isinstance(read_domains(bundle("oracle-vm", xm_domains=text[:-1])).all, Unknown)
    with pytest.raises(ValueError, match="too deep"):
        parse_expressions("(" * 1000)


def test_monitors_debuggers_and_displays_in_arguments() -> None:
    libvirt = ("-chardev", "socket,id=charmonitor,fd=24,server=on,wait=off", "-mon", "chardev=charmonitor,mode=control")
    assert (list(monitors(libvirt)), list(debuggers(libvirt)), list(displays(libvirt))) == ([], [], [])
    assert list(monitors(("--qmp", "tcp:0:4444,server"))) == [("tcp:0:4444", True)]
    assert list(monitors(("-monitor", "unix:/srv/m,server"))) == [("/srv/m", False)]
    assert list(monitors(("-monitor", "stdio", "-qmp", "none"))) == []
    assert list(displays(("-vnc", ":1", "-display", "vnc=10.0.0.1:2", "-spice", "port=5900"))) == [
        "10.0.0.1",
        "0.0.0.0",
        "0.0.0.0",
    ]
    assert list(displays(("-vnc", "unix:/run/vnc", "-display", "gtk"))) == []


def qcow2(backing: bytes) -> bytes:
    header = b"QFI\xfb" + struct.pack(">IQI", 3, 120, len(backing)) + bytes(80) + struct.pack(">II", 4, 112) + bytes(8)
    return header.ljust(120, b"\0")[:120] + backing


def test_a_header_is_followed_by_name_relative_to_its_image() -> None:
    images = {"/a/top": qcow2(b"../b/base"), "/b/base": bytes(16)}
    text = "".join(f"@image {path}\n{data.hex()}\n" for path, data in images.items()) + "@end\n"
    found = follow(read_images(bundle("", image_headers=text)), "/a/top", 8)
    assert (found.images, found.problem, found.unseen) == (("/b/base",), "", "")


def test_exports_in_the_spellings_that_matter() -> None:
    text = '-ro\n"/srv/a b" -rw,sync 10.0.0.1 10.0.0.2(ro) # both\n/srv/c \\\n  *(rw)\n'
    found = parse_exports({"/etc/exports": text})
    assert [(one.path, one.client, one.options[0]) for one in found[1:]] == [
        ("/srv/a b", "10.0.0.1", "rw"),
        ("/srv/a b", "10.0.0.2", "ro"),
        ("/srv/c", "*", "rw"),
    ]


def test_a_mount_point_with_a_blank_is_read_as_it_is() -> None:
    (mount,) = parse_mounts("40 21 253:4 / /srv/a\\040b rw,nosuid shared:1 - ext4 /dev/vg/a rw\n")
    assert (mount.target, mount.options, mount.number) == ("/srv/a b", ("rw", "nosuid", "rw"), "253:4")


@pytest.mark.parametrize(
    "said",
    [
        {"xl_domains": "[" * 100_000},
        {"xl_domains": '[{"domid": 1, "config": {"c_info": {"name": "a"}, "b_info": {"max_memkb": 1e400}}}]'},
        {"xl_domains": '[{"domid": 1, "config": {"c_info": [], "b_info": "x"}}]'},
        {"xen_definitions": "@file /a\nname = 'a'\nmemory = 1e999\n@end"},
        {"xen_definitions": "@file /a\nname = " + "(" * 5000 + "@end"},
        {"xen_definitions": "@file /a\nname = '\\ud800'\nvcpus = [1]\n@end"},
        {"xm_domains": "(domain (name a) (domid 1) (uuid x))"},
        {"domains": "@live a\n<domain><name>a</name><memory unit='b'>" + "9" * 4000 + "</memory></domain>\n@end"},
        {"domains": "@live a\n<domain>" + "<a>" * 5000 + "\n@autostart\n@persistent\n@there\n@end"},
    ],
)
def test_numbers_without_end_and_depths_without_bottom_are_not_understood(said: dict[str, str]) -> None:
    others = {"xl_domains": "", "xm_domains": "", "xen_definitions": "@end\n"} | said
    kinds = "libvirt-qemu" if "domains" in said else "oracle-vm\nxl"
    assert isinstance(read_domains(bundle(kinds, **others)).all, Unknown)


def test_facts_of_guests_survive_json() -> None:
    host = read_host(bundle("xl", xl_domains=xl_list("db"), xen_definitions="@end\n"))
    assert msgspec.json.decode(msgspec.json.encode(host), type=Host) == host


@settings(max_examples=60)
@given(st.text(max_size=60), st.sampled_from(["", "@live x\n", "@end", "[{", "(domain ", "@file /a\n", "@image a\n"]))
def test_nonsense_raises_nothing(text: str, start: str) -> None:
    hostile = Bundle(Manifest(), {name: Output(0, start + text + "\n@end\n") for name in PROBES})
    read_domains(hostile)
    read_hardware(hostile)
    read_storage(hostile)
    read_images(hostile)


@settings(max_examples=60)
@given(st.sampled_from([b"QFI\xfb", b"QED\0", b"KDMV", b"# Disk DescriptorFile", b"conectix"]), st.binary(max_size=700))
def test_a_hostile_header_is_a_header_or_unknown(magic: bytes, data: bytes) -> None:
    try:
        parse_header(magic + data)
    except ValueError:
        assert isinstance(parse_headers(f"@image a\n{(magic + data).hex()}\n@end")["a"], Unknown)
