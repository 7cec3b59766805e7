# SPDX-License-Identifier: Apache-2.0
"""Rules about what a guest is given: devices and directories of the host, boot devices, emulated hardware."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from donjon.audit.control import Context, control
from donjon.audit.controls.vms import each_vm
from donjon.audit.fact import Unseen, need
from donjon.audit.facts.domains import DeviceFact, Domain, ShareFact
from donjon.audit.facts.hardware import PciDevice
from donjon.audit.facts.host import Host
from donjon.audit.profile import matches
from donjon.audit.verdict import Severity, Verdict, failed

_PASSED_THROUGH = ("pci", "mdev", "scsi", "scsi_host")
_FREE_DRIVERS = ("", "vfio-pci", "pciback", "xen-pciback", "pci-stub")
_SYSTEM_TREES = ("/etc", "/usr", "/boot", "/root", "/proc", "/sys", "/dev", "/run", "/bin", "/sbin", "/lib", "/var/lib")
_OLD_CARDS = ("rtl8139", "ne2k_pci", "ne2k_isa", "e1000", "pcnet")


@control("GST-08")
def passthrough(host: Host, context: Context) -> Iterable[Verdict]:
    """A device that is handed over reads and writes memory; all of its IOMMU group goes to the same guest."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            devices = [device for device in state.devices if device.kind in _PASSED_THROUGH]
            given = {device.address for device in devices}
            for device in devices:
                yield from _loosened(vm, device, when)
                if device.kind == "pci" and vm.origin == "libvirt":
                    yield from _siblings(need(host.hardware.pci), vm, device, given)
                if not _approved(vm, device.address, context.profile.allow.passthrough):
                    yield failed(
                        f"{vm.name} has {device.kind} device {device.address} of the host, which nobody approved",
                        when=when,
                        device=device.address,
                    )

    return each_vm(host, find, good="no device of the host is given to it without approval")


def _approved(vm: Domain, address: str, patterns: tuple[str, ...]) -> bool:
    return matches(address, patterns) or matches(f"{vm.name}/{address}", patterns)


def _loosened(vm: Domain, device: DeviceFact, when: str) -> Iterator[Verdict]:
    loose = [f"{key}=1" for key in ("permissive", "seize") if device.options.get(key) == "1"]
    loose += ["rdm_policy=relaxed"] if device.options.get("rdm_policy") == "relaxed" else []
    if loose:
        yield failed(f"{vm.name} has {device.address} with {', '.join(loose)}", when=when, device=device.address)


def _siblings(pci: dict[str, PciDevice], vm: Domain, device: DeviceFact, given: set[str]) -> Iterator[Verdict]:
    if device.address not in pci:
        raise Unseen(f"the host has no {device.address} now, so what is in its IOMMU group could not be seen")
    group = pci[device.address].group
    if not group:
        yield failed(f"{device.address} of {vm.name} is in no IOMMU group", device=device.address)
    for other in pci.values():
        shared = group and other.group == group and other.address not in given and not other.is_bridge
        if shared and other.driver not in _FREE_DRIVERS:
            yield failed(
                f"{vm.name} has {device.address}, the host uses {other.address} of the same IOMMU group",
                device=device.address,
                group=group,
                driver=other.driver,
            )


@control("GST-09")
def host_usb_and_functions(host: Host, _: Context) -> Iterable[Verdict]:
    """USB devices of the host bring its USB stack into reach; functions of network cards must not send as others."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            for device in state.devices:
                if device.kind in {"usb", "redirdev"}:
                    what = "USB redirection" if device.kind == "redirdev" else f"USB device {device.address}"
                    yield failed(f"{vm.name} has {what} of the host", when=when, device=device.address)
            if any(nic.kind == "hostdev" for nic in state.nics):
                yield from _functions(host, vm)

    return each_vm(host, find, good="it has no USB of the host and no free function of a network card")


def _functions(host: Host, vm: Domain) -> Iterator[Verdict]:
    functions = need(host.hardware.functions)
    if not functions:
        raise Unseen(f"{vm.name} has a function of a network card, and the host shows none")
    for one in functions:
        wrong = [] if one.spoof_check else ["no check of its address"]
        wrong += ["trusted"] if one.trust else []
        if wrong:
            yield failed(
                f"function {one.number} of {one.device} is {' and '.join(wrong)}, and {vm.name} has functions",
                function=f"{one.device} {one.number}",
            )


@control("GST-10")
def shared_directories(host: Host, _: Context) -> Iterable[Verdict]:
    """A directory that host and guest both write is a way out of the guest."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            for share in state.shares:
                if not share.read_only:
                    system = _is_system(share)
                    yield failed(
                        f"{vm.name} writes to the host's {share.source or 'directory'} as {share.target}",
                        severity=None if system else Severity.MEDIUM,
                        when=when,
                        path=share.source,
                        driver=share.driver,
                        mode=share.mode,
                    )

    return each_vm(host, find, good="it writes to no directory of the host")


def _is_system(share: ShareFact) -> bool:
    """A tree that the system needs, or one that holds such a tree."""
    path = share.source.rstrip("/")
    return any(path == tree or path.startswith(f"{tree}/") or tree.startswith(f"{path}/") for tree in _SYSTEM_TREES)


@control("GST-14")
def boot_devices(host: Host, _: Context) -> Iterable[Verdict]:
    """Who answers first on the network decides what a guest runs; an installation medium is not left in its drive."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            if state.boot[:1] == ("network",):
                yield failed(f"{vm.name} boots from the network first", when=when, boot=state.boot)
            for disk in state.disks:
                if disk.device in {"cdrom", "floppy"} and disk.source:
                    medium = f"{disk.source} is left in a drive of {vm.name}"
                    yield failed(medium, lower=1, when=when, device=disk.target, source=disk.source)

    return each_vm(host, find, good="it boots from its disk, and its drives are empty")


@control("GST-15")
def needless_devices(host: Host, _: Context) -> Iterable[Verdict]:
    """Every emulated device is code that a guest can attack; a floppy controller was the way out of many."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            floppies = [disk.target for disk in state.disks if disk.device == "floppy"]
            if floppies or any(device.kind == "fdc controller" for device in state.devices):
                yield failed(f"{vm.name} has a floppy drive", when=when, device=floppies)
            needless = list(_needless(state))
            if needless:
                yield failed(f"{vm.name} has {', '.join(needless)}", lower=1, when=when, device=needless)

    return each_vm(host, find, good="it has no needless device")


def _needless(vm: Domain) -> Iterator[str]:
    yield from (f"a parallel port ({one.kind})" for one in vm.channels if one.device == "parallel")
    yield from (f"sound ({one.model})" for one in vm.devices if one.kind == "sound")
    yield from (f"a {nic.model} network card" for nic in vm.nics if nic.model in _OLD_CARDS)
    yield from (f"{one.model} graphics" for one in vm.devices if one.kind == "video" and one.model == "cirrus")
    controllers = [one.model for one in vm.devices if one.kind == "usb controller" and one.model != "none"]
    companions = [model for model in controllers if model.startswith("ich9-uhci")]
    if len(controllers) - len(companions) > 1:
        yield f"{len(controllers) - len(companions)} USB controllers"


@control("GST-21")
def no_direct_resources(host: Host, context: Context) -> Iterable[Verdict]:
    """Ports, memory and interrupts of the machine belong to trusted guests only."""
    keys = ("ioports", "iomem", "irqs", "dtdev", "e820_host")

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            for key in keys:
                value = state.options.get(key, "")
                allowed = _approved(vm, f"{key}={value}", context.profile.allow.passthrough)
                if value not in {"", "0"} and not allowed:
                    yield failed(f"{vm.name} is given {key}={value}", when=when, option=key, value=value)

    return each_vm(host, find, good="no port, memory or interrupt of the machine is given to it")


@control("GST-22")
def no_old_switches(host: Host, _: Context) -> Iterable[Verdict]:
    """Switches for old guests widen what a guest may do in xenstore; a driver domain serves devices to others."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            for key in ("xend_suspend_evtchn_compat", "driver_domain"):
                if state.options.get(key, "0") not in {"", "0"}:
                    yield failed(f"{vm.name} has {key}={state.options[key]}", when=when, option=key)
            mask = state.options.get("xenstore_feature_mask", "")
            if mask:
                yield failed(f"{vm.name} has xenstore_feature_mask={mask}", when=when, option="xenstore_feature_mask")

    return each_vm(host, find, good="it has no switch for old guests")
