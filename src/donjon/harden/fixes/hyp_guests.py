# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area HYP that concern what stands between a guest and its host; all hold from its next start on.

Source: libvirt, "Domain XML format"; xl.cfg(5).
"""

from __future__ import annotations

import re

from donjon.audit.catalogue import FixClass
from donjon.audit.controls.command_lines import is_xen
from donjon.audit.controls.hyp_guests import ROOT
from donjon.audit.controls.hyp_xen import RESTRICT_SINCE
from donjon.audit.fact import need
from donjon.audit.facts.domain import Domain
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Edit, Want, fix
from donjon.harden.editors import Rewrite, assignments, lines
from donjon.harden.fixes.gst import definition
from donjon.harden.services import libvirt_restarted

MODULE_OPTIONS = "/etc/modprobe.d/zz-donjon-kvm.conf"
_RESTRICTED_USERS = ("xen-qemuuser-shared", "xen-qemuuser-range-base")
_QEMU_ACCOUNTS = {"libvirt-qemu": "kvm", "qemu": "qemu"}
"""Account and group that packages make for QEMU: Debian's, Red Hat's."""


@fix("HYP-05")
def own_label(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """A guest whose definition asks to run unconfined does so no more; None where the host has no labels to give."""
    guest = _guest(result, host)
    if guest is None or guest.origin != "libvirt" or not guest.uuid or guest.label_type != "none":
        return None
    return Change(
        f"{guest.name} is confined",
        (definition(guest.uuid, _labelled),),
        guests=(guest.name,),
        note="in force when the VM is started the next time",
    )


def _labelled(xml: str) -> str:
    return re.sub(r"\n?[ \t]*<seclabel type=(['\"])none\1[^>]*/>", "", xml)


@fix("HYP-08")
def device_model_unprivileged(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Guests are started without root's rights, and with the filter of system calls.

    None for guests that run: they keep the rights they were started with; and on Xen, which has the restriction as a
    preview only.
    """
    if result.subject or is_xen(host):
        return None
    settings = need(host.libvirt.qemu, absent={})
    values: dict[str, str] = {}
    if settings.get("seccomp_sandbox", -1) == 0:
        values["seccomp_sandbox"] = "1"
    if str(settings.get("user", "")) in ROOT and settings.get("dynamic_ownership", 1) != 0:
        groups, users = need(host.accounts.groups), {user.name for user in need(host.accounts.users)}
        found = [(user, group) for user, group in _QEMU_ACCOUNTS.items() if user in users and group in groups]
        values |= {"user": f'"{found[0][0]}"', "group": f'"{found[0][1]}"'} if found else {}
    if not values:
        return None
    return Change(
        "libvirt starts guests without rights",
        (Edit("/etc/libvirt/qemu.conf", assignments(values)),),
        activate=(libvirt_restarted(),),
        note="in force for guests that are started from now on",
    )


@fix("HYP-14")
def no_nesting(result: Result, host: Host, profile: Profile) -> Change | None:
    """Guests get no virtualisation of their own: one by its definition, all by KVM if none is approved."""
    guest = _guest(result, host)
    if is_xen(host):
        return _in_file(guest, {"nestedhvm": "0"}, "cannot run guests of its own") if guest else None
    modules = sorted(name.partition(".")[0] for name in need(host.kernel.parameters) if name.endswith(".nested"))
    wants: list[Want] = []
    if not profile.allow.nested:
        options = lines(*(f"options {module} nested=0" for module in modules))
        wants.append(Edit(MODULE_OPTIONS, options, mode=0o644))
    if guest and guest.uuid:
        feature = "svm" if modules == ["kvm_amd"] else "vmx"
        wants.append(definition(guest.uuid, _without_feature(feature)))
    if not wants or (result.subject and not guest):
        return None
    return Change(
        f"{guest.name} cannot run guests of its own" if guest else "KVM gives guests no virtualisation",
        tuple(wants),
        guests=(guest.name,) if guest else (),
        fix_class=FixClass.NEXT_BOOT,
        note="in force when the VM is started the next time, and for all when KVM is loaded the next time",
    )


def _without_feature(feature: str) -> Rewrite:
    wanted = f"<feature policy='disable' name='{feature}'/>"
    old = re.compile(rf"<feature [^>]*name=(['\"]){feature}\1[^>]*/>")

    def rewrite(xml: str) -> str:
        if old.search(xml):
            return old.sub(wanted, xml)
        xml, times = re.subn(r"(\n?[ \t]*)(<cpu\b[^>]*)/>", rf"\1\2>\1  {wanted}\1</cpu>", xml, count=1)
        return xml if times else re.sub(r"(\n?[ \t]*)</cpu>", rf"\1  {wanted}\1</cpu>", xml, count=1)

    return rewrite


@fix("HYP-19")
def boot_loader_confined(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """A guest's disk is read by pygrub as a user without rights.

    None before Xen 4.18, which cannot, and where the accounts it needs are missing: the guest would not start.
    """
    guest = _guest(result, host)
    users = {user.name for user in need(host.accounts.users)}
    if guest is None or need(host.xen.branch) < RESTRICT_SINCE or users.isdisjoint(_RESTRICTED_USERS):
        return None
    return _in_file(guest, {"bootloader_restrict": "1"}, "is started by a boot loader without rights")


def _in_file(guest: Domain, values: dict[str, str], will: str) -> Change | None:
    """None if its definition is no file of text that people edit."""
    if guest.origin != "xl" or not guest.file.startswith("/"):
        return None
    return Change(
        f"{guest.name} {will}",
        (Edit(guest.file, assignments(values, separator="=")),),
        guests=(guest.name,),
        fix_class=FixClass.NEXT_BOOT,
        note="in force when the VM is started the next time",
    )


def _guest(result: Result, host: Host) -> Domain | None:
    return next((vm for vm in need(host.domains.all) if result.subject and vm.key == result.subject), None)
