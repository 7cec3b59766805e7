# SPDX-License-Identifier: Apache-2.0
"""Rules of the area HYP about Xen itself: how it was built, its labels, features that upstream does not support.

Source: SUPPORT.md and docs/misc/xsm-flask.txt of Xen 4.17; xl.cfg(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from donjon.audit.control import Context, control
from donjon.audit.controls.parts import all_parts
from donjon.audit.fact import Known, Unknown, need
from donjon.audit.facts.domains import Domain
from donjon.audit.facts.host import Host
from donjon.audit.verdict import Severity, Verdict, each, failed, not_applicable, passed, unknown

UNSUPPORTED_BUILD = ("CONFIG_DEBUG", "CONFIG_EXPERT", "CONFIG_UNSUPPORTED")
KCONFIG_SINCE = (4, 7)
RESTRICT_SINCE = (4, 18)
LARGEST_GUEST_KIB = 8 << 30
NOT_SUPPORTED = "not security supported"
EXPERIMENTAL = "experimental"
PREVIEW = "tech preview"
DEPRECATED = "deprecated"
SEVERITY = {
    NOT_SUPPORTED: Severity.HIGH,
    EXPERIMENTAL: Severity.HIGH,
    PREVIEW: Severity.MEDIUM,
    DEPRECATED: Severity.MEDIUM,
}
# Switches of a guest: what is on, and how far upstream stands for it.
SWITCHES = {
    "nestedhvm": ("nested virtualisation", EXPERIMENTAL),
    "p9": ("a 9pfs share", PREVIEW),
    "pvcallsif": ("PV calls", EXPERIMENTAL),
    "vscsi": ("PV SCSI", EXPERIMENTAL),
}
OFF = frozenset({"", "0", "no", "off", "false", "disabled", "False"})


@control("HYP-02")
def release_build(host: Host, _: Context) -> Iterable[Verdict]:
    """Upstream's security support ends where Xen is built for developers."""
    build = host.xen.build
    if isinstance(build, Known):
        bad = [name for name in UNSUPPORTED_BUILD if build.value.get(name) == "y"]
        lines = [f"{name}={build.value.get(name, 'n')}" for name in UNSUPPORTED_BUILD]
        if bad:
            yield failed(f"Xen is built with {', '.join(bad)}", build=lines)
        else:
            yield passed("Xen is a release build", build=lines)
        return
    banner = next((line for line in need(host.xen.messages) if line.startswith("Xen version ")), "")
    if "debug=y" in banner:
        yield failed("Xen is a debug build", banner=banner)
    elif "debug=n" in banner and need(host.xen.branch) < KCONFIG_SINCE:
        yield passed("Xen is a release build", banner=banner)
    else:
        yield unknown("neither xenhypfs nor Xen's messages say how it was built")


@control("HYP-03")
def labels_enforced(host: Host, _: Context) -> Iterable[Verdict]:
    """Labels keep guests from sharing memory with each other behind the dom0's back."""
    build = host.xen.build
    if isinstance(build, Known) and build.value.get("CONFIG_XSM") != "y":
        yield not_applicable("not available in this build: Xen was built without XSM")
        return
    module = _security_module(host)
    flask = host.xen.flask
    if module == "silo":
        yield passed("SILO keeps guests from each other", option="xsm=silo", upstream="supported")
    elif module == "dummy":
        yield failed("Xen has labels, but does not use them", option="xsm=dummy")
    elif isinstance(flask, Known) and flask.value == "Enforcing":
        yield passed("Flask enforces its policy", mode=flask.value, upstream=EXPERIMENTAL)
    elif isinstance(flask, Known) and (flask.value == "Permissive" or isinstance(build, Known)):
        yield failed(f"Flask is {flask.value.lower()}", mode=flask.value)
    elif isinstance(flask, Unknown):
        yield unknown(flask.reason)
    else:
        yield unknown("it could not be seen whether Xen was built with labels")


def _security_module(host: Host) -> str:
    """What was chosen at boot, or at build; "" if that could not be seen, or before Xen 4.12 had a choice."""
    chosen = [word.removeprefix("xsm=") for word in need(host.xen.options) if word.startswith("xsm=")]
    if chosen:
        return chosen[-1]
    build = host.xen.build.value if isinstance(host.xen.build, Known) else {}
    defaults = ("silo", "dummy", "flask")
    return next((name for name in defaults if build.get(f"CONFIG_XSM_{name.upper()}_DEFAULT") == "y"), "")


@control("HYP-18")
def supported_features(host: Host, _: Context) -> Iterable[Verdict]:
    """Nothing is in use for which upstream publishes no security fixes."""
    found = list(all_parts(_of_the_host(host), _of_processes(host), _of_guests(host)))
    yield from found
    if not found:
        yield passed("only features that upstream supports are in use", guests=len(need(host.domains.all)))


def _of_the_host(host: Host) -> Iterator[Verdict]:
    options = dict(word.partition("=")[::2] for word in need(host.xen.options))
    if options.get("vpmu", "off") not in OFF:
        yield _unsupported("Xen gives guests performance counters (vpmu)", NOT_SUPPORTED, "vpmu")
    if options.get("altp2m", "off") not in OFF:
        yield _unsupported("Xen lets guests have several memory maps (altp2m)", PREVIEW, "altp2m")
    if need(host.xen.flask, absent="Disabled") != "Disabled":
        yield failed("Flask is on, which upstream calls experimental; SILO is supported", "flask", lower=1)


def _of_processes(host: Host) -> Iterator[Verdict]:
    running = {process.name for process in need(host.processes.all)}
    if "gdbsx" in running:
        yield _unsupported("gdbsx debugs a guest", NOT_SUPPORTED, "gdbsx")
    if running & {"tapdisk", "tapdisk2"}:
        yield _unsupported("disks are served by blktap2", DEPRECATED, "blktap2")


def _of_guests(host: Host) -> Iterator[Verdict]:
    for guest in need(host.domains.all):
        yield from _of_the_guest(guest)


def _of_the_guest(guest: Domain) -> Iterator[Verdict]:
    for name, (what, status) in SWITCHES.items():
        if guest.options.get(name, "") not in OFF:
            yield _unsupported(f"{guest.name} has {what}", status, name, guest)
    if "altp2m" in guest.options and guest.options["altp2m"] not in OFF:
        yield _unsupported(f"{guest.name} has several memory maps (altp2m)", PREVIEW, "altp2m", guest)
    if guest.os_type == "hvm" and guest.options.get("hap", "1") in OFF:
        yield _unsupported(f"{guest.name} runs on shadow paging (hap=0)", NOT_SUPPORTED, "hap", guest)
    if any(device.kind == "usb" for device in guest.devices):
        yield _unsupported(f"{guest.name} has a USB device of the host", NOT_SUPPORTED, "usb", guest)
    if "qemu-dm" in guest.emulator or guest.options.get("device_model_version") == "qemu-xen-traditional":
        yield _unsupported(f"{guest.name} has the old device model, qemu-traditional", DEPRECATED, "qemu-dm", guest)
    if guest.memory_kib > LARGEST_GUEST_KIB:
        yield _unsupported(f"{guest.name} has more than 8 TiB of memory", NOT_SUPPORTED, "memory", guest)


def _unsupported(what: str, status: str, feature: str, guest: Domain | None = None) -> Verdict:
    subject = f"{guest.key} {feature}" if guest else feature
    name = guest.name if guest else ""
    return failed(f"{what}: {status} upstream", subject, name, severity=SEVERITY[status], feature=feature)


@control("HYP-19")
def boot_loader_confined(host: Host, _: Context) -> Iterable[Verdict]:
    """A guest's own disk is not parsed by root in dom0."""
    guests = need(host.domains.all)
    yield from each(
        guests,
        lambda guest: _judge_boot_loader(guest, host),
        subject=lambda guest: guest.key,
        name=lambda guest: guest.name,
        none="no VM is defined here",
    )


def _judge_boot_loader(guest: Domain, host: Host) -> Verdict:
    """As it is now, and as it will be: the worse of the two."""
    states = [state for _, state in guest.states]
    loader = next((state.bootloader for state in states if "pygrub" in state.bootloader), "")
    if not loader:
        shown = states[-1].bootloader or states[-1].kernel or states[-1].loader or states[-1].os_type
        return passed("no boot loader reads the guest's disk in dom0", boots=shown)
    own = states[-1].options.get("bootloader_restrict", "")
    restrict = own or need(host.xen.settings, absent={}).get("bootloader_restrict", "")
    place = guest.file or loader
    if restrict in OFF:
        return failed(f"root in dom0 reads the disk of {guest.name} by pygrub", bootloader=loader, place=place)
    if need(host.xen.branch) < RESTRICT_SINCE:
        return failed(f"this Xen cannot confine pygrub, which reads the disk of {guest.name}", bootloader=loader)
    return passed("pygrub is confined", bootloader=loader, bootloader_restrict=restrict)
