# SPDX-License-Identifier: Apache-2.0
"""Rules about how a guest starts, runs and dies: kernels, CPU, dumps; and whether anybody knows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from posixpath import basename, dirname

from donjon.audit.control import Context, control
from donjon.audit.controls.vms import each_vm
from donjon.audit.fact import Known, need
from donjon.audit.facts.domains import CpuFact, Domain
from donjon.audit.facts.host import Host
from donjon.audit.facts.storage import mount_of
from donjon.audit.profile import matches
from donjon.audit.verdict import Verdict, failed, manual

_FIRMWARE = ("hvmloader", "pvgrub32.bin", "pvgrub64.bin", "pv-grub-x86_64.gz", "pv-grub-x86_32.gz")
_HOST_CPUS = {"host-passthrough", "host-model", "maximum"}
_NO_MITIGATIONS = {
    "qemu32",
    "qemu64",
    "kvm32",
    "kvm64",
    "core2duo",
    "coreduo",
    "pentium",
    "pentium2",
    "pentium3",
    "486",
}
_MITIGATIONS = {
    "spec-ctrl": ("spec_ctrl", "ibrs"),
    "ibpb": ("ibpb",),
    "ssbd": ("ssbd",),
    "md-clear": ("md_clear",),
    "arch-capabilities": ("arch_capabilities",),
    "stibp": ("stibp",),
    "amd-ssbd": ("amd_ssbd",),
    "virt-ssbd": ("virt_ssbd",),
}
"""QEMU's name of a CPU feature -> what /proc/cpuinfo calls it."""

_SAME = {"spec-ctrl": {"ibrs", "spec-ctrl"}, "ibpb": {"ibpb", "spec-ctrl"}, "ssbd": {"ssbd", "amd-ssbd", "virt-ssbd"}}
_DUMPS = "/var/lib/libvirt/qemu/dump"


@control("GST-17")
def trusted_kernels(host: Host, context: Context) -> Iterable[Verdict]:
    """A kernel from outside the guest's disk is what the guest trusts most: only root may change it."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            for path in filter(None, (state.kernel, state.initrd, state.device_tree)):
                if basename(path) not in _FIRMWARE or not path.startswith(("/usr/", basename(path))):
                    yield from _kernel(host, vm, path, when, context.profile.allow.kernels)

    return each_vm(host, find, good="it starts what is on its disk, or a kernel of the host's packages")


def _kernel(host: Host, vm: Domain, path: str, when: str, approved: tuple[str, ...]) -> Iterator[Verdict]:
    file = need(host.images.at(path))
    folder = need(host.images.at(dirname(path)))
    for one in (file, folder):
        if one.mode & 0o002 or (one.user != "root" and not (one is file and vm.running)):
            what = f"{path}, with which {vm.name} starts, can be changed by others than root"
            yield failed(what, when=when, path=one.path, mode=one.shown)
            return
    known = need(host.hardware.kernels)
    digest = known[path].sha256 if path in known else ""
    if not (path in known and known[path].package) and not matches(path, approved) and digest not in approved:
        yield failed(
            f"{path}, with which {vm.name} starts, is of no package, and nobody approved it",
            when=when,
            path=path,
            sha256=digest,
        )


@control("GST-18")
def cpu_mitigations(host: Host, _: Context) -> Iterable[Verdict]:
    """A guest can only protect itself against its CPU with features that it is shown."""

    def find(vm: Domain) -> Iterator[Verdict]:
        state = vm.stored or vm
        if vm.origin != "libvirt":
            hidden = state.options.get("cpuid", "")
            if hidden and "host" not in hidden.split(","):
                yield failed(f"{vm.name} has a CPU of its own making", cpuid=hidden)
        elif state.cpu.mode not in _HOST_CPUS:
            yield from _named_model(host, vm, state.cpu)
        else:
            off = sorted(set(_disabled(state.cpu)) & set(_MITIGATIONS))
            if off:
                yield failed(f"features against flaws of the CPU are taken from {vm.name}", missing=off)

    return each_vm(host, find, good="it is shown what the host's CPU has against its own flaws")


def _named_model(host: Host, vm: Domain, cpu: CpuFact) -> Iterator[Verdict]:
    model = cpu.model or "qemu64"
    if model in _NO_MITIGATIONS:
        yield failed(f"{vm.name} has the CPU {model}, which knows nothing of the CPU's flaws", model=model)
        return
    words = need(host.hardware.cpu_flags)
    flags = set(words)
    given = {name for name, policy in cpu.features.items() if policy in {"require", "force"}}
    offered = [name for name, words in _MITIGATIONS.items() if flags & set(words)]
    missing = [name for name in offered if not given & _SAME.get(name, {name}) and not _built_in(model, name)]
    if missing:
        yield failed(f"the CPU {model} of {vm.name} lacks {', '.join(missing)}", model=model, missing=missing)


def _built_in(model: str, feature: str) -> bool:
    """Models called -IBRS or -IBPB have these; newer ones have all that were known when they were made."""
    recent = (
        "Cascadelake",
        "Cooperlake",
        "Icelake",
        "Snowridge",
        "SapphireRapids",
        "EPYC-Rome",
        "EPYC-Milan",
        "EPYC-G",
    )
    if model.startswith(recent):
        return feature != "md-clear" or "noTSX" in model or not model.startswith("Cascadelake")
    return ("IBRS" in model and feature in {"spec-ctrl", "ibpb"}) or ("IBPB" in model and feature == "ibpb")


def _disabled(cpu: CpuFact) -> list[str]:
    return [name for name, policy in cpu.features.items() if policy in {"disable", "forbid"}]


@control("GST-20")
def no_dumps(host: Host, _: Context) -> Iterable[Verdict]:
    """A guest's memory holds its keys; it is not written to the host's disk when the guest dies."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            if state.on_crash.startswith("coredump"):
                yield from _dump(host, vm, state.on_crash, when)
            if state.on_crash == "preserve":
                yield failed(f"the memory of {vm.name} stays when it crashes", lower=1, when=when, on_crash="preserve")
            if state.dump_core == "on":
                yield failed(f"a core of QEMU would hold all memory of {vm.name}", lower=1, when=when, dumpCore="on")
        dumped = vm.origin == "libvirt" and any(state.dump_core != "off" for _, state in vm.states)
        if dumped and need(host.libvirt.qemu, {}).get("dump_guest_core") == 1:
            yield failed(f"a core of QEMU would hold all memory of {vm.name}", dump_guest_core="1")

    return each_vm(host, find, good="its memory is not written to the host when it crashes")


def _dump(host: Host, vm: Domain, on_crash: str, when: str) -> Iterator[Verdict]:
    folder = _DUMPS
    if vm.origin == "libvirt":
        folder = str(need(host.libvirt.qemu, {}).get("auto_dump_path", _DUMPS))
    info = host.paths.at(folder)
    private = isinstance(info, Known) and info.value.others == 0
    if not private or not _is_encrypted(host, folder):
        what = f"the memory of {vm.name} is written to {folder} when it crashes"
        shown = info.value.shown if isinstance(info, Known) else "not seen"
        yield failed(what, when=when, on_crash=on_crash, path=folder, mode=shown)


def _is_encrypted(host: Host, folder: str) -> bool:
    """Whether the file system of a folder lies on a device that dm-crypt made."""
    mounts, mapped = host.storage.mounts, host.storage.mapped
    if not isinstance(mounts, Known) or not isinstance(mapped, Known):
        return False
    mount = mount_of(mounts.value, folder)
    crypts = {f"/dev/mapper/{one.name}" for one in mapped.value if one.uuid.startswith("CRYPT-")}
    return mount is not None and mount.source in crypts


@control("GST-23")
def every_vm_is_known(host: Host, context: Context) -> Iterable[Verdict]:
    """A VM that nobody knows is nobody's to patch, and may be an intruder's."""
    profile = context.profile
    domains = need(host.domains.all)
    inventory = bool(profile.tenants or profile.allow.unmanaged_vms or any(_owner(vm) for vm in domains))
    if domains and not inventory:
        yield manual("whose VMs these are is not said: neither by labels nor by the profile's tenants")
        yield from (verdict for vm in domains for verdict in _orphan(vm))
        return

    def find(vm: Domain) -> Iterator[Verdict]:
        known = _owner(vm) or profile.tenant_of(vm.name) or matches(vm.name, profile.allow.unmanaged_vms)
        if not known:
            yield failed(f"nobody knows whose VM {vm.name} is", origin=vm.origin, autostart=vm.autostart)
        if not matches(vm.name, profile.allow.unmanaged_vms):
            yield from _orphan(vm)

    yield from each_vm(host, find, good="it is known")


def _owner(vm: Domain) -> str:
    return vm.labels.get("owner", "") or vm.labels.get("tenant", "")


def _orphan(vm: Domain) -> Iterator[Verdict]:
    """A VM that runs, but will be gone, with no trace of it, once it stops."""
    defined = vm.persistent if vm.origin == "libvirt" else vm.stored is not None or bool(vm.file)
    if vm.running and not defined:
        yield failed(f"{vm.name} runs without a stored definition", vm.key, vm.name, origin=vm.origin)
