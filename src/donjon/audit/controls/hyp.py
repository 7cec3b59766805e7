# SPDX-License-Identifier: Apache-2.0
"""Rules of the area HYP that look at the host: command lines, labels, CPU, device nodes, end of support.

Those about Xen itself are in `hyp_xen`, those about guests in `hyp_guests`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from donjon.audit.bundle import PathInfo
from donjon.audit.control import Context, control
from donjon.audit.controls.command_lines import is_xen, unseen_lines, weak_words, weakened
from donjon.audit.fact import Known, Unknown, need
from donjon.audit.facts.host import Host
from donjon.audit.facts.kernel import MandatoryAccess
from donjon.audit.facts.platform import Release
from donjon.audit.profile import matches
from donjon.audit.verdict import Severity, Verdict, each, failed, not_applicable, passed, unknown

CONFINING = frozenset({"selinux", "apparmor"})
NODES = ("/dev/kvm", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/vhost-scsi", "/dev/mem", "/proc/xen/privcmd")
NODE_FOLDERS = ("/dev/vfio", "/dev/xen")
# Made for everybody: it gives nothing until somebody who owns a group's node adds that group.
PUBLIC_NODES = frozenset({"/dev/vfio/vfio"})
SERVICE_ACCOUNTS = ("root", "qemu", "libvirt-qemu", "tss", "swtpm")
MICROCODE = {
    "GenuineIntel": ("intel-microcode", "microcode_ctl", "ucode-intel"),
    "AuthenticAMD": ("amd64-microcode", "linux-firmware", "amd-ucode-firmware", "microcode_ctl", "ucode-amd"),
}
_ANSWERS = re.compile(r"Not affected|Mitigation|Vulnerable|Processor vulnerable|KVM:")
STALE_DAYS = 365
WARN_DAYS = 180


@control("HYP-01")
def no_debugger(host: Host, _: Context) -> Iterable[Verdict]:
    """No switch on a command line opens hypervisor or kernel to a debugger."""
    yield from weakened("HYP-01", host, configured=Severity.MEDIUM)


@control("HYP-11")
def mitigations_on(host: Host, _: Context) -> Iterable[Verdict]:
    """No switch on a command line turns a mitigation off."""
    yield from weakened("HYP-11", host, configured=Severity.MEDIUM)


@control("HYP-04")
def guests_confined(host: Host, _: Context) -> Iterable[Verdict]:
    """A guest that breaks out of QEMU finds itself in a labelled process, not on the host."""
    driver = need(host.libvirt.qemu, absent={}).get("security_driver", "")
    drivers = (driver,) if isinstance(driver, str) else driver if isinstance(driver, tuple) else ()
    models = need(host.libvirt.security_models)
    if "none" in drivers:
        yield failed("qemu.conf switches confinement of guests off", security_driver=drivers)
    elif CONFINING & set(models):
        yield passed("libvirt confines guests", models=models)
    else:
        yield failed("libvirt has no driver that confines guests", models=", ".join(models) or "none")


@control("HYP-06")
def unconfined_refused(host: Host, _: Context) -> Iterable[Verdict]:
    """A definition cannot ask for a guest that nothing confines."""
    models = need(host.libvirt.security_models)
    if not CONFINING.intersection(models):
        yield not_applicable("no driver that could confine guests; see HYP-04")
        return
    settings = need(host.libvirt.qemu, absent={})
    default = settings.get("security_default_confined", 1)
    required = settings.get("security_require_confined", 0)
    if default == 0:
        yield failed("guests are not confined unless their definition asks for it", security_default_confined=default)
    elif required != 1:
        yield failed("a definition may ask for an unconfined guest", lower=1, security_require_confined=required)
    else:
        yield passed("every guest must be confined")


@control("HYP-07")
def mandatory_access(host: Host, _: Context) -> Iterable[Verdict]:
    """The kernel confines services of the host by rules that root cannot bend."""
    if isinstance(host.platform.kinds, Known) and "O" in host.platform.kinds.value:
        yield not_applicable("Oracle VM's dom0 is delivered without mandatory access control")
        return
    words = list(weak_words("HYP-07", host))
    yield from words
    yield from unseen_lines(host)
    state = need(host.kernel.mandatory_access)
    if state.selinux == "enforcing" and state.configured in {"permissive", "disabled"}:
        yield failed("SELinux enforces now, but not after the next boot", configured=state.configured)
    elif state.selinux == "enforcing":
        yield passed("SELinux enforces")
    elif state.apparmor and not state.selinux:
        yield _apparmor(state)
    elif not words:
        yield failed("SELinux is permissive" if state.selinux else "neither SELinux nor AppArmor is on")


def _apparmor(state: MandatoryAccess) -> Verdict:
    if state.profiles is None:
        return unknown("the profiles of AppArmor could not be seen")
    if state.profiles == 0:
        return failed("AppArmor is on, but enforces no profile")
    return passed("AppArmor enforces", profiles=state.profiles)


@control("HYP-10")
def cpu_mitigated(host: Host, context: Context) -> Iterable[Verdict]:
    """The CPU's leaks are closed, those between guest and host above all."""
    if is_xen(host):
        yield from _xen_speculation(host)
        return
    texts = need(host.kernel.vulnerabilities)
    bad = {name: text for name, text in texts.items() if _vulnerable(text, context.profile.multi_tenant)}
    for name, text in sorted(bad.items()):
        yield failed(f"the CPU's {name} is not mitigated: {text}", name, text=text)
    odd = [f"{name}: {text}" for name, text in texts.items() if not _ANSWERS.match(text)]
    if not texts or odd:
        yield unknown(odd[0] if odd else "the kernel names no vulnerabilities of CPUs")
    elif not bad:
        yield passed("all that the kernel knows of is mitigated", known=len(texts))


def _vulnerable(text: str, multi_tenant: bool) -> bool:
    smt = multi_tenant and re.search(r"SMT (vulnerable|Host state unknown)", text)
    guests = re.search(r"(VMX|KVM): [^,;]*vulnerable", text, re.IGNORECASE)
    part = re.search(r"[A-Z][\w-]*: Vulnerable", text)
    return bool(text.startswith("Vulnerable") or guests or part or smt)


def _xen_speculation(host: Host) -> Iterator[Verdict]:
    messages = need(host.xen.messages)
    starts = [place for place, line in enumerate(messages) if line.startswith("Speculative mitigation facilities")]
    if not starts:
        yield unknown("Xen's messages of its start are gone: its mitigations could not be seen")
        return
    block = [line.strip() for line in messages[starts[-1] + 1 :][:12]]
    words = {name: text.strip() for name, colon, text in (line.partition(":") for line in block) if colon}
    kinds = {name: text for name, text in words.items() if name in {"Support for HVM VMs", "Support for PV VMs"}}
    bad = [*_unprotected(kinds), *_meltdown(host, words)]
    yield from bad
    if not kinds:
        yield unknown("what Xen says of its mitigations cannot be understood")
    elif not bad:
        yield passed("Xen mitigates for all kinds of guests", **{name.replace(" ", "_"): kinds[name] for name in kinds})


def _unprotected(kinds: dict[str, str]) -> Iterator[Verdict]:
    for name, text in kinds.items():
        if text.startswith("None"):
            guests = name.removeprefix("Support for ").removesuffix(" VMs")
            yield failed(f"Xen does not keep {guests} guests from leaking memory of others", guests, text=text)


def _meltdown(host: Host, words: dict[str, str]) -> Iterator[Verdict]:
    """XPTI and L1TF matter to Intel's CPUs that do not say RDCL_NO."""
    hints = words.get("Hardware hints", "") + words.get("Hardware features", "")
    if "RDCL_NO" in hints or need(host.kernel.cpu).vendor != "GenuineIntel":
        return
    for name in ("XPTI (64-bit PV only)", "PV L1TF shadowing"):
        if "DomU disabled" in words.get(name, ""):
            yield failed(f"{name} is off for guests", name, text=words[name])


@control("HYP-13")
def microcode(host: Host, _: Context) -> Iterable[Verdict]:
    """Fixes of the CPU itself are loaded at boot."""
    cpu = need(host.kernel.cpu)
    virtual = host.kernel.virtual_machine
    if (cpu.virtual and not is_xen(host)) or (isinstance(virtual, Known) and virtual.value):
        yield not_applicable("the host is itself a virtual machine: its host loads microcode")
        return
    if isinstance(virtual, Unknown):
        yield unknown(virtual.reason)
        return
    known = need(host.kernel.vulnerabilities, absent={})
    installed = [name for name in MICROCODE.get(cpu.vendor, ()) if name in need(host.packages.all)]
    loads = [word for word in need(host.xen.options) if word.startswith("ucode=")] if is_xen(host) else ["kernel"]
    evidence = f"revision {cpu.microcode or '?'} of {cpu.vendor} {cpu.model}"
    if known.get("old_microcode", "").startswith("Vulnerable"):
        yield failed("the microcode is older than one that fixes vulnerabilities", microcode=evidence)
    elif cpu.vendor not in MICROCODE:
        yield unknown(f"donjon knows no package with microcode for {cpu.vendor}")
    elif not installed:
        yield failed("no package with microcode is installed", microcode=evidence, packages=MICROCODE[cpu.vendor])
    elif not loads:
        yield failed("Xen does not load microcode: ucode=scan is missing", microcode=evidence, package=installed[0])
    else:
        yield passed("microcode is installed and loaded", microcode=evidence, package=installed[0])


@control("HYP-17")
def device_nodes(host: Host, context: Context) -> Iterable[Verdict]:
    """Only who runs guests gets at the hypervisor's devices."""
    nodes, unseen = [], []
    for one in (host.paths.at(path) for path in NODES):
        match one:
            case Known(info):
                nodes.append(info)
            case Unknown(reason):
                unseen.append(reason)
    for below in (host.paths.below(folder) for folder in NODE_FOLDERS):
        match below:
            case Known(infos):
                nodes += [info for info in infos if info.kind in "cf" and info.path not in PUBLIC_NODES]
            case Unknown(reason):
                unseen.append(reason)
    yield from (unknown(reason) for reason in unseen[:1])
    if nodes or not unseen:
        yield from each(
            nodes, lambda info: _judge_node(info, host, context), subject=lambda info: info.path, none="no such device"
        )


def _judge_node(info: PathInfo, host: Host, context: Context) -> Verdict:
    if info.others:
        return failed(f"everybody on the host can use {info.path}", mode=info.shown)
    if info.gid == 0 or not info.mode & 0o060:
        return passed(f"only root can use {info.path}", mode=info.shown)
    group = need(host.accounts.groups).get(info.group)
    allowed = (*SERVICE_ACCOUNTS, *context.profile.allow.admins)
    members = group.members if group else ()
    strangers = [name for name in members if not matches(name, allowed)]
    if strangers:
        return failed(f"{', '.join(strangers)} can use {info.path} without being root", mode=info.shown)
    return passed(f"only root and group {info.group} can use {info.path}", mode=info.shown, members=members or "none")


class _Support(Struct, frozen=True, forbid_unknown_fields=True):
    """Release -> last day with security fixes."""

    revision: date
    xen: dict[str, date]
    system: dict[str, dict[str, date]]


@cache
def _support() -> _Support:
    return msgspec.toml.decode((files("donjon.audit.controls") / "support.toml").read_bytes(), type=_Support)


@control("HYP-20")
def release_supported(host: Host, context: Context) -> Iterable[Verdict]:
    """Somebody still fixes the holes of this release."""
    if (context.today - _support().revision).days > STALE_DAYS:
        yield unknown(f"donjon's table of releases is of {_support().revision}: too old to tell")
        return
    if is_xen(host) and isinstance(host.xen.branch, Known):
        major, minor = host.xen.branch.value
        yield _judge_branch(major, minor, context.today)
    elif is_xen(host):
        yield unknown("it could not be seen which Xen runs")
    yield _judge_system(need(host.platform.release), context.today)


def _judge_branch(major: int, minor: int, today: date) -> Verdict:
    """Debian and others may fix a branch longer than upstream does; their word is in the end date of the system."""
    known = {tuple(map(int, branch.split("."))): end for branch, end in _support().xen.items()}
    name = f"Xen {major}.{minor}"
    if (major, minor) < min(known):
        return failed(f"{name} has not got security fixes for years", "xen")
    if (major, minor) not in known:
        return unknown(f"donjon does not know until when {name} is supported", "xen")
    return _until(name, known[major, minor], today, "xen")


def _judge_system(release: Release, today: date) -> Verdict:
    ends = _support().system.get(release.id, {})
    end = ends.get(release.version) or ends.get(release.version.partition(".")[0])
    if end is None:
        return unknown(f"donjon does not know until when {release.pretty or release.id} is supported", "system")
    return _until(release.pretty or f"{release.id} {release.version}", end, today, "system")


def _until(name: str, end: date, today: date, subject: str) -> Verdict:
    table = _support().revision
    if today > end:
        return failed(f"{name} gets no security fixes since {end}", subject, end=end, table=table)
    if (end - today).days < WARN_DAYS:
        return failed(f"{name} gets security fixes only until {end}", subject, lower=1, end=end, table=table)
    return passed(f"{name} gets security fixes until {end}", subject, end=end, table=table)
