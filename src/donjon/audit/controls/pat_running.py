# SPDX-License-Identifier: Apache-2.0
"""Rules of the area PAT about what still runs although something newer is installed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import pairwise
from posixpath import basename

from donjon.audit.control import Context, control
from donjon.audit.fact import need
from donjon.audit.facts.host import Host
from donjon.audit.facts.packages import Package
from donjon.audit.facts.processes import Process
from donjon.audit.facts.updates import XenImage
from donjon.audit.package_versions import compare
from donjon.audit.verdict import Severity, Status, Verdict, each, failed, passed, unknown

_DEB_KERNEL = re.compile(r"linux-image-(?P<release>\d\S*)")
_RPM_KERNELS = frozenset({"kernel", "kernel-core", "kernel-uek", "kernel-uek-core", "kernel-rt-core", "kernel-xen"})
_DEVICE_MODELS = ("qemu-system*", "qemu-kvm*", "qemu-dm*", "kvm")
_QEMU_PACKAGES = ("qemu-system-*", "qemu-kvm", "qemu-kvm-core", "qemu-kvm-common", "qemu-xen*")
_DAEMONS = (
    *("libvirtd", "virt*d", "virtlogd", "virtlockd", "xenstored", "oxenstored", "xenconsoled", "sshd", "dnsmasq"),
    *("ovs-vswitchd", "ovsdb-server", "swtpm"),
)
_NOT_RESTARTABLE = frozenset({"xenstored", "oxenstored"})
_CODE = ("/usr/", "/lib", "/opt/", "/bin/", "/sbin/")
"""Where code of packages is; memory files and shared memory are always "deleted"."""
GONE = " (deleted)"
EFI_BUILD_ID = 32
"""Digits of the build id of a Xen that EFI started: the signature of its CodeView record."""
_WORST = (Status.FAIL, Status.UNKNOWN, Status.PASS)


@control("PAT-06")
def kernel_is_the_newest(host: Host, _context: Context) -> Iterable[Verdict]:
    """An installed fix protects after a reboot only."""
    running, kind = need(host.platform.kernel), need(host.packages.kind)
    kernels = _kernels(need(host.packages.all).values(), kind)
    mine = next((one for release, one in kernels if release == running), None)
    if mine is None:
        yield unknown(f"kernel {running} runs, which is of no installed package")
        return
    rivals = [(release, one) for release, one in kernels if _flavour(release, one) == _flavour(running, mine)]
    newest_release, newest = max(rivals, key=lambda rival: _Order(kind, rival[1].version))
    if compare(kind, mine.version, newest.version) >= 0 and _built(host, mine, kind):
        yield passed(f"kernel {running} is the newest installed", running=running)
        return
    effective = need(host.updates.effective_kernel, absent="")
    if effective and compare("rpm", effective, newest_release) >= 0:
        yield passed(f"kernel {running} is live-patched to {effective}", running=running, effective=effective)
        return
    patches = need(host.updates.live_patches, absent=())
    said = f"kernel {running} runs, {newest_release} ({newest.version}) is installed"
    if patches:
        said += f"; live patches {', '.join(patches)} are loaded, but how far they reach is not known"
    yield failed(said, lower=1 if patches else 0, running=running, installed=newest.version, live_patches=patches)


class _Order:
    """A version as a key to sort by."""

    def __init__(self, kind: str, version: str) -> None:
        self.kind, self.version = kind, version

    def __lt__(self, other: _Order) -> bool:
        return compare(self.kind, self.version, other.version) < 0


def _kernels(packages: Iterable[Package], kind: str) -> list[tuple[str, Package]]:
    """Release as uname says it, and package."""
    found = []
    for one in packages:
        if kind == "deb" and (match := _DEB_KERNEL.fullmatch(one.name)):
            found.append((match["release"], one))
        elif kind == "rpm" and one.name in _RPM_KERNELS:
            version = one.version.rpartition(":")[2]
            found.append((f"{version}xen" if one.name == "kernel-xen" else f"{version}.{one.arch}", one))
    return found


def _flavour(release: str, package: Package) -> str:
    """Debian: what follows the numbers ("amd64", "rt-amd64", "cloud-amd64"); else the name of the package."""
    if not package.name.startswith("linux-image"):
        return package.name
    return "-".join(word for word in release.split("-") if not word[:1].isdigit())


def _built(host: Host, mine: Package, kind: str) -> bool:
    """Whether the kernel that runs is of the build that is installed: Debian replaces builds under the same release."""
    built = need(host.updates.running_build, absent="")
    return kind != "deb" or not built or compare("deb", built, mine.version) >= 0


@control("PAT-07")
def hypervisor_is_the_newest(host: Host, _context: Context) -> Iterable[Verdict]:
    """A new hypervisor runs after a reboot only."""
    xen = need(host.updates.xen)
    if not xen.build_id:
        yield unknown(f"Xen {xen.release} does not tell its build id")
        return
    suffix = ".efi" if len(xen.build_id) == EFI_BUILD_ID else ".gz"
    images = [one for one in need(host.updates.xen_images) if one.path.endswith(suffix)]
    if not images:
        yield unknown(f"no hypervisor was found in /boot/xen-*{suffix}")
        return
    newest = max(images, key=_version_of_image)
    if not newest.build_id:
        yield unknown(f"{newest.path} has no build id")
    elif newest.build_id == xen.build_id:
        yield passed(f"{newest.path} runs", running=xen.build_id)
    else:
        yield failed(
            f"Xen {xen.release} runs, but {newest.path} on disk is another build",
            running=xen.build_id,
            on_disk=newest.build_id,
        )


def _version_of_image(image: XenImage) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", basename(image.path).replace("amd64", "")))


@control("PAT-08")
def no_guest_runs_replaced_qemu(host: Host, _context: Context) -> Iterable[Verdict]:
    """A guest keeps the QEMU it was started with, holes included, until it is migrated or started again."""
    guests = [one for one in need(host.processes.all) if _is_device_model(one)]
    days = [one.installed for one in need(host.packages.all).values() if _named(one.name, _QEMU_PACKAGES)]
    installed = max(days, default=0)
    if guests and days and not installed:
        yield unknown("when QEMU was installed could not be seen")
    yield from each(
        guests,
        lambda one: _stale(one, installed, f"guest {_guest(one)}", "QEMU"),
        subject=_guest_key,
        name=_guest,
        none="no guest has a QEMU here",
    )


def _is_device_model(process: Process) -> bool:
    program = basename((process.executable or process.name).removesuffix(GONE))
    return _named(program, _DEVICE_MODELS) or _named(process.name, _DEVICE_MODELS)


def _named(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _argument(process: Process, name: str) -> str:
    words = process.arguments
    return next((value for key, value in pairwise(words) if key == name), "")


def _guest(process: Process) -> str:
    words = _argument(process, "-name").split(",")
    named = next((word.removeprefix("guest=") for word in words if word.startswith("guest=")), words[0])
    return named or _argument(process, "-xen-domid") or f"of process {process.pid}"


def _guest_key(process: Process) -> str:
    return _argument(process, "-uuid") or _guest(process)


def _stale(process: Process, installed: int, who: str, what: str) -> Verdict:
    """Whether what it runs was replaced: its program, code it mapped, or a package installed since it was started."""
    if not process.executable:
        return unknown(f"it could not be seen which program {who} runs")
    replaced = [path for path in process.deleted if path.startswith(_CODE)]
    if process.executable.endswith(GONE):
        replaced.insert(0, process.executable.removesuffix(GONE))
    pid = str(process.pid)
    if replaced:
        return failed(f"{who} still runs {replaced[0]}, which was replaced", pid=pid, path=replaced)
    if installed > process.started > 0:
        since = datetime.fromtimestamp(installed, UTC).date()
        return failed(f"{who} was started before {what} was installed on {since}", pid=pid, path=process.executable)
    return passed(f"{who} runs what is installed", path=process.executable)


@control("PAT-09")
def daemons_are_the_newest(host: Host, _context: Context) -> Iterable[Verdict]:
    """Guests keep running while these are restarted."""
    daemons: dict[str, list[Process]] = {}
    for one in need(host.processes.all):
        if _named(one.name, _DAEMONS) and not _is_session(one):
            daemons.setdefault(one.name, []).append(one)
    yield from each(
        sorted(daemons.items()),
        lambda daemon: min((_daemon(one) for one in daemon[1]), key=lambda verdict: _WORST.index(verdict.status)),
        subject=lambda daemon: daemon[0],
        none="none of the management daemons runs",
    )


def _is_session(process: Process) -> bool:
    """A login over ssh, which ends by itself."""
    return (
        process.arguments[:1] != ()
        and process.arguments[0].startswith("sshd: ")
        and "[listener]" not in process.arguments[0]
    )


def _daemon(process: Process) -> Verdict:
    verdict = _stale(process, 0, process.name, process.name)
    if process.name in _NOT_RESTARTABLE and verdict.status is Status.FAIL:
        return failed(f"{verdict.summary}; it cannot be restarted under running guests", severity=Severity.INFO)
    return verdict
