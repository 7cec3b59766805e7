# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area HYP that concern the host: boot options, labels, device nodes; those of guests: `hyp_guests`."""

from __future__ import annotations

import re

from donjon.audit.controls.command_lines import is_xen
from donjon.audit.controls.hyp import MICROCODE
from donjon.audit.fact import Known, need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.boot_options import NEXT_BOOT, with_option, without_option
from donjon.harden.change import Change, Edit, Permissions, fix
from donjon.harden.editors import assignments, lines
from donjon.harden.services import libvirt_restarted

UDEV_RULES = "/etc/udev/rules.d/99-donjon.rules"
_UDEV_RELOADED = "if command -v udevadm >/dev/null 2>&1; then udevadm control --reload; fi"
_NEEDS_RELABEL = "linux selinux"

fix("HYP-01")(without_option)
fix("HYP-11")(without_option)


@fix("HYP-03")
def labels_enforced(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Xen's module SILO keeps guests from sharing memory with each other.

    None unless this build of Xen is known to have it.
    """
    build = host.xen.build
    if not isinstance(build, Known) or build.value.get("CONFIG_XSM_SILO") != "y":
        return None
    return with_option(host, "xen", "xsm=silo", note="guests that have a channel to another guest lose it")


@fix("HYP-06")
def confined_by_default(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Guests are confined unless their definition says otherwise; running ones stay as they are."""
    values = {"security_default_confined": "1", "security_require_confined": "1"}
    every = host.domains.all.value if isinstance(host.domains.all, Known) else ()
    refused = tuple(vm.name for vm in every if any(state.label_type == "none" for _, state in vm.states))
    return Change(
        "libvirt refuses unconfined guests",
        (Edit("/etc/libvirt/qemu.conf", assignments(values)),),
        activate=(libvirt_restarted(),),
        guests=refused,
        note="a guest whose definition turns confinement off does not start any more",
    )


@fix("HYP-07")
def mandatory_access(result: Result, host: Host, profile: Profile) -> Change | None:
    """What switches SELinux or AppArmor off at the next boot is taken away.

    None where SELinux is off altogether: its labels are missing, and the host would not boot without making them first.
    """
    if result.subject:
        return None if result.subject == _NEEDS_RELABEL else without_option(result, host, profile)
    state = need(host.kernel.mandatory_access)
    if not state.selinux:
        return None
    return Change(
        "SELinux enforces",
        (Edit("/etc/selinux/config", assignments({"SELINUX": "enforcing"}, separator="=")),),
        note=f"{NEXT_BOOT}; what it would refuse is in the audit log now",
    )


@fix("HYP-13")
def microcode(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Xen loads the microcode that is installed; None if none is: donjon installs nothing."""
    names = MICROCODE.get(need(host.kernel.cpu).vendor, ())
    loads = not is_xen(host) or any(word.startswith("ucode=") for word in need(host.xen.options))
    if loads or not any(name in need(host.packages.all) for name in names):
        return None
    return with_option(host, "xen", "ucode=scan")


@fix("HYP-15")
def dma_isolated(result: Result, host: Host, profile: Profile) -> Change | None:
    """Devices in guests' hands reach these guests' memory only.

    None where the firmware decides, as it does on Xen and on AMD's CPUs, which use an IOMMU unless told not to.
    """
    if result.subject.startswith(("linux ", "xen ")):
        return without_option(result, host, profile)
    if is_xen(host):
        return None
    if need(host.kernel.parameters).get("vfio_iommu_type1.allow_unsafe_interrupts") in {"Y", "y", "1"}:
        option = "options vfio_iommu_type1 allow_unsafe_interrupts=0"
        return Change(
            "guests cannot forge interrupts",
            (Edit("/etc/modprobe.d/zz-donjon-vfio.conf", lines(option), mode=0o644),),
            note=f"{NEXT_BOOT}; without interrupt remapping, guests with a device do not start any more",
        )
    if result.subject != "iommu" or need(host.kernel.cpu).vendor != "GenuineIntel":
        return None
    return with_option(host, "linux", "intel_iommu=on", note="if the firmware has VT-d on")


@fix("HYP-17")
def device_nodes(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Others have no access to the hypervisor's devices, now and after each boot.

    None for members of its group, which a person must judge, for files of /proc, and where QEMU has no group of its own
    to use KVM by.
    """
    node = need(host.paths.at(result.subject))
    if not node.others or not re.fullmatch(r"/dev/[\w/-]+", node.path):
        return None
    group = node.group if node.gid != 0 else "root"
    if node.path == "/dev/kvm" and node.gid == 0:
        group = next((name for name in ("kvm", "qemu") if name in need(host.accounts.groups)), "")
        if not group:
            return None
    mode = node.mode & 0o660
    rule = f'ENV{{DEVNAME}}=="{node.path}", OWNER="root", GROUP="{group}", MODE="{mode:04o}"'
    access = Permissions(node.path, at_most=0o660, owner=f"root:{group}" if node.gid == 0 and group != "root" else "")
    return Change(
        f"others have no access to {node.path}",
        (Edit(UDEV_RULES, lines(rule), mode=0o644), access),
        activate=(_UDEV_RELOADED,),
    )
