# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area GST about what a VM is made of: needless devices, its CPU, and its memory when it crashes.

Source: libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import re

from donjon.audit.fact import Unseen, need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Edit, fix
from donjon.harden.editors import Rewrite, assignments
from donjon.harden.fixes.gst import redefined, stored_vm
from donjon.harden.fixes.guest_xml import each_device

_CPU = re.compile(r"(?ms)^  <cpu(?=[ />])(?:[^\n]*/>\n|.*?^  </cpu>\n)")
_HOST_MODEL = "  <cpu mode='host-model' check='partial'/>\n"
_NEEDLESS = ("sound", "parallel")
_FEATURE = re.compile(r"[a-z0-9_.-]+")
_ON_CRASH = {"coredump-destroy": "destroy", "coredump-restart": "restart", "preserve": "destroy"}


@fix("GST-15")
def no_needless_devices(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Floppy drives, sound and parallel ports go; cards that the guest needs drivers for are a person's to change."""
    vm = stored_vm(result, host)
    floppy = any(disk.device == "floppy" for disk in vm.disks) or any(
        device.kind == "fdc controller" for device in vm.devices
    )
    others = any(device.kind == "sound" for device in vm.devices) or any(
        port.device == "parallel" for port in vm.channels
    )
    if not floppy and not others:
        raise Unseen("the guest may need another driver for another device")
    return redefined(
        result,
        f"{result.name} has no floppy drive, sound or parallel port",
        each_device("disk", lambda one: "" if _is(one, "device='floppy'") else one),
        each_device("controller", lambda one: "" if _is(one, "type='fdc'") else one),
        *(each_device(tag, lambda _: "") for tag in _NEEDLESS),
    )


def _is(block: str, attribute: str) -> bool:
    return f" {attribute}" in block.split("\n", 1)[0]


@fix("GST-18")
def cpu_with_mitigations(result: Result, host: Host, profile: Profile) -> Change:
    """The guest sees the features of the host's CPU against its own flaws; where VMs move, all hosts must have them."""
    vm = stored_vm(result, host)
    if profile.networks.peers or profile.networks.migration:
        raise Unseen("VMs move between hosts: choose a model for all of them with `virsh hypervisor-cpu-baseline`")
    missing = [name for name in result.evidence.get("missing", "").split(", ") if _FEATURE.fullmatch(name)]
    rewrite = _with_features(missing) if missing else _host_model
    note = "" if missing else "the guest finds another CPU, which some licences notice"
    return redefined(result, f"{vm.name} is shown what the CPU has against its flaws", rewrite, note=note)


def _host_model(xml: str) -> str:
    if _CPU.search(xml):
        return _CPU.sub(_HOST_MODEL, xml, count=1)
    return re.sub(r"(?m)^  <clock(?=[ />])", lambda found: _HOST_MODEL + found[0], xml, count=1)


def _with_features(names: list[str]) -> Rewrite:
    def change(cpu: re.Match[str]) -> str:
        block = cpu[0]
        for name in names:
            block = re.sub(rf"(?m)^    <feature policy='\w+' name='{re.escape(name)}'/>\n", "", block)
        if block.count("\n") == 1:
            block = re.sub(r"/>\n$", ">\n  </cpu>\n", block)
        added = "".join(f"    <feature policy='require' name='{name}'/>\n" for name in names)
        return block.removesuffix("  </cpu>\n") + added + "  </cpu>\n"

    return lambda xml: _CPU.sub(change, xml, count=1)


@fix("GST-20")
def no_memory_on_disk(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """The memory of a VM that crashes is neither kept nor written down."""
    vm = stored_vm(result, host)
    change = redefined(result, f"the memory of {vm.name} is not written to the host", _forgotten)
    if need(host.libvirt.qemu, absent={}).get("dump_guest_core") != 1:
        return change
    conf = Edit("/etc/libvirt/qemu.conf", assignments({"dump_guest_core": "0"}))
    return Change(change.title, (*change.wants, conf), guests=change.guests, note=change.note)


def _forgotten(xml: str) -> str:
    xml = re.sub(
        rf"(?m)^(  <on_crash>)({'|'.join(_ON_CRASH)})(</on_crash>)$",
        lambda found: f"{found[1]}{_ON_CRASH[found[2]]}{found[3]}",
        xml,
    )
    return re.sub(r"(?m)^(  <memory[^>]* dumpCore=)'on'", r"\1'off'", xml)
