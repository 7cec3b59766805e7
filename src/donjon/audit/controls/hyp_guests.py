# SPDX-License-Identifier: Apache-2.0
"""Rules of the area HYP about what stands between a guest and its host: labels, device models, nesting, IOMMU."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from donjon.audit.control import Context, control
from donjon.audit.controls.command_lines import is_xen, unseen_lines, weak_words
from donjon.audit.controls.parts import all_parts
from donjon.audit.fact import Unknown, need
from donjon.audit.facts.domains import Domain
from donjon.audit.facts.host import Host
from donjon.audit.facts.kernel import DeviceModel, has
from donjon.audit.profile import matches
from donjon.audit.verdict import Severity, Verdict, each, failed, not_applicable, passed, unknown

CONFINED = re.compile(r"(\w+:)?\w+:svirt\w*:.*|libvirt-[0-9a-f-]{36}( \(enforce\))?")
ROOT = frozenset({"root", "0", "+0"})
SECCOMP_FILTER = 2
RESTRICT_SINCE = (4, 12)
ON = frozenset({"Y", "y", "1"})
REMAPPING = r"(?i)Enabled IRQ remapping|Interrupt remapping (is )?enabled|Virtual APIC enabled"


@control("HYP-05")
def own_label(host: Host, _: Context) -> Iterable[Verdict]:
    """Each guest's process carries a label that no other has."""
    labels = {process.pid: process.label for process in need(host.processes.all)}
    running = _running(host, "libvirt")
    shared = Counter(labels.get(guest.pid, "") for guest in running)

    def judge(guest: Domain) -> Verdict:
        if guest.label_type == "none":
            return failed(f"{guest.name} is defined to run unconfined", seclabel="none")
        if guest.pid not in labels:
            return unknown(f"the process of {guest.name} could not be seen")
        label = labels[guest.pid]
        if not CONFINED.fullmatch(label):
            return failed(f"nothing confines the process of {guest.name}", label=label or "none", pid=guest.pid)
        if shared[label] > 1:
            return failed(f"{guest.name} shares its label with another guest", label=label, pid=guest.pid)
        return passed("its process has a label of its own", label=label, pid=guest.pid)

    yield from _of_guests(running, judge)


@control("HYP-08")
def device_model_unprivileged(host: Host, _: Context) -> Iterable[Verdict]:
    """A guest that takes over QEMU gains nobody's rights but its own."""
    if is_xen(host):
        yield from _of_guests(_running(host, "xl", "xm"), lambda guest: _judge_xen_model(guest, host))
        return
    settings = list(_qemu_settings(host))
    yield from settings
    running = _running(host, "libvirt")
    models = {model.pid: model for model in need(host.kernel.device_models)}
    if running:
        yield from _of_guests(running, lambda guest: _judge_model(guest, models))
    elif not settings:
        yield passed("QEMU is set up to run without rights; no guest runs now")


def _qemu_settings(host: Host) -> Iterator[Verdict]:
    """Of qemu.conf; what is not set is the package's default, which is an account of its own."""
    settings = need(host.libvirt.qemu, absent={})
    user = settings.get("user", "")
    if str(user) in ROOT:
        yield failed("qemu.conf lets every guest run as root", user=user)
    if settings.get("seccomp_sandbox", -1) == 0:
        yield failed("qemu.conf switches off the filter of system calls", seccomp_sandbox=0)


def _judge_model(guest: Domain, models: dict[int, DeviceModel]) -> Verdict:
    if guest.pid not in models:
        return unknown(f"the process of {guest.name} could not be seen")
    model = models[guest.pid]
    shown = f"uid {model.uid}, capabilities {model.capabilities:x}, seccomp {model.seccomp}"
    if model.uid == 0:
        return failed(f"QEMU of {guest.name} runs as root", process=shown, pid=model.pid)
    if model.capabilities:
        return failed(f"QEMU of {guest.name} has capabilities", process=shown, pid=model.pid)
    if model.seccomp != SECCOMP_FILTER:
        return failed(f"nothing filters the system calls of QEMU of {guest.name}", process=shown, pid=model.pid)
    return passed("QEMU runs without rights", process=shown, pid=model.pid)


def _judge_xen_model(guest: Domain, host: Host) -> Verdict:
    """PV and PVH guests have a device model for graphics only."""
    mine = [process for process in need(host.processes.all) if _serves(process.arguments, guest.name)]
    if not mine and guest.os_type != "hvm":
        return not_applicable("it has no device model")
    if not mine:
        return unknown(f"the device model of {guest.name} could not be seen")
    if all(process.uid != 0 for process in mine):
        return passed("its device model runs without rights", uid=mine[0].uid, pid=mine[0].pid)
    if need(host.xen.branch) < RESTRICT_SINCE:
        return not_applicable("this Xen cannot restrict a device model")
    return failed(f"QEMU of {guest.name} runs as root in dom0", severity=Severity.MEDIUM, pid=mine[0].pid, uid=0)


def _serves(arguments: tuple[str, ...], name: str) -> bool:
    return "-xen-domid" in arguments and ("-name", name) in pairwise(arguments)


@control("HYP-14")
def no_nesting(host: Host, context: Context) -> Iterable[Verdict]:
    """Hardware virtualisation inside a guest is a large and little-tested door to the host."""
    approved = context.profile.allow.nested
    if is_xen(host):
        defined = need(host.domains.all)
        yield from _of_guests(defined, lambda guest: _judge_xen_nesting(guest, approved))
        return
    switches = {name: text for name, text in need(host.kernel.parameters).items() if name.endswith(".nested")}
    on = [name for name, text in switches.items() if text in ON]
    if not switches:
        yield not_applicable("KVM is not loaded")
    elif not on:
        yield passed("KVM gives guests no virtualisation", **{name.replace(".", "_"): "N" for name in switches})
    else:
        guests = [guest for guest in need(host.domains.all) if _sees_virtualisation(guest)]
        yield from (
            _of_guests(guests, lambda guest: _judge_nesting(guest, approved, on[0]))
            if guests
            else [
                failed(
                    "KVM can give guests virtualisation; none has it now", severity=Severity.LOW, parameter=f"{on[0]}=Y"
                )
            ]
        )


def _sees_virtualisation(guest: Domain) -> bool:
    """A CPU that is passed through has it unless the definition takes it away."""
    policies = [guest.cpu.features[name] for name in ("vmx", "svm") if name in guest.cpu.features]
    if any(policy in {"disable", "forbid"} for policy in policies):
        return False
    return bool(policies) or guest.cpu.mode in {"host-passthrough", "maximum", "host-model"}


def _judge_nesting(guest: Domain, approved: tuple[str, ...], parameter: str) -> Verdict:
    if matches(guest.name, approved):
        return passed("it may run guests of its own: the profile says so")
    return failed(f"{guest.name} can run guests of its own", parameter=f"{parameter}=Y", cpu=guest.cpu.mode or "custom")


def _judge_xen_nesting(guest: Domain, approved: tuple[str, ...]) -> Verdict:
    states = [state.options for _, state in guest.states]
    on = [name for options in states for name in ("nestedhvm",) if options.get(name, "") in ON]
    if not on:
        return passed("it has no virtualisation")
    if matches(guest.name, approved):
        return passed("it may run guests of its own: the profile says so")
    return failed(f"{guest.name} can run guests of its own, which upstream calls experimental", option="nestedhvm=1")


@control("HYP-15")
def dma_isolated(host: Host, _: Context) -> Iterable[Verdict]:
    """A device that a guest drives can reach the guest's memory only."""
    devices = [
        f"{guest.name}: {device.address}"
        for guest in need(host.domains.all)
        for device in guest.devices
        if device.kind in {"pci", "mdev"}
    ]
    if not devices:
        yield not_applicable("no device is passed through to a guest")
        return
    words = [*weak_words("HYP-15", host), *unseen_lines(host)]
    problems = list(all_parts(words, _xen_iommu(host) if is_xen(host) else _iommu(host)))
    yield from problems
    if not problems:
        yield passed("an IOMMU with interrupt remapping isolates devices", devices=devices)


def _iommu(host: Host) -> Iterator[Verdict]:
    messages = host.kernel.iommu_messages
    if not need(host.kernel.iommus):
        yield failed("guests drive devices, but there is no IOMMU", "iommu")
    elif need(host.kernel.parameters).get("vfio_iommu_type1.allow_unsafe_interrupts") in ON:
        yield failed("guests with a device may forge interrupts (allow_unsafe_interrupts)", "interrupts")
    elif isinstance(messages, Unknown):
        yield unknown(messages.reason, "interrupts")
    elif not has(messages, REMAPPING):
        if has(messages, "Linux version"):
            yield failed("guests drive devices, but interrupts are not remapped", "interrupts")
        else:
            yield unknown("the kernel's messages of its start are gone", "interrupts")


def _xen_iommu(host: Host) -> Iterator[Verdict]:
    messages = need(host.xen.messages)
    if "hvm_directio" not in need(host.xen.capabilities) and "pv_directio" not in need(host.xen.capabilities):
        yield failed("guests drive devices, but Xen has no IOMMU", "iommu")
    elif not any(re.search(REMAPPING, line) for line in messages):
        if any(line.startswith("Command line") for line in messages):
            yield failed("guests drive devices, but interrupts are not remapped", "interrupts")
        else:
            yield unknown("Xen's messages of its start are gone", "interrupts")


def _running(host: Host, *origins: str) -> list[Domain]:
    return [guest for guest in need(host.domains.all) if guest.running and guest.origin in origins]


def _of_guests(guests: Iterable[Domain], judge: Callable[[Domain], Verdict]) -> Iterator[Verdict]:
    return each(guests, judge, subject=lambda one: one.key, name=lambda one: one.name, none="there is no such VM")
