# SPDX-License-Identifier: Apache-2.0
"""Rules about the host's own use of storage: mounts, LVM, network storage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from donjon.audit.control import Context, control
from donjon.audit.controls.vms import worst
from donjon.audit.fact import Absent, Known, need
from donjon.audit.facts.domains import Domain
from donjon.audit.facts.host import Host
from donjon.audit.facts.images import within
from donjon.audit.facts.storage import Export, Login, Mount, mount_of
from donjon.audit.profile import Profile
from donjon.audit.verdict import Severity, Status, Verdict, each, failed, not_applicable, passed, unknown

_EVERYBODY = {"*", "0.0.0.0/0", "::/0", "0.0.0.0/0.0.0.0", "world"}
_FLAGS = ("nodev", "nosuid", "noexec")
_PARTITION = re.compile(r"(/dev/(?:loop|nbd)\d+)p\d+$")
_EMULATOR_MOUNTS = ("fuse.guestmount", "fuse.libguestfs")
_AUTOMATIC = ("udisks2.service", "udisks.service")


@control("STO-06")
def network_storage(host: Host, context: Context) -> Iterable[Verdict]:
    """Who may mount a repository, or log in to a target, has all disks on it."""
    exports, logins = need(host.storage.exports, ()), need(host.storage.logins, ())
    mounts = [one for one in need(host.storage.mounts) if one.kind in {"nfs", "nfs4"}]
    if not exports and not logins and not mounts:
        yield not_applicable("this host serves and uses no network storage")
        return
    nothing = "no network storage"
    for verdicts in (
        each(exports, _judge_export, subject=lambda one: f"{one.path} {one.client}", none=nothing),
        each(logins, _judge_login, subject=lambda one: one.node, none=nothing),
        each(mounts, lambda one: _judge_nfs(one, context.profile), subject=lambda one: one.target, none=nothing),
    ):
        yield from (verdict for verdict in verdicts if verdict.status is not Status.NOT_APPLICABLE)


def _judge_export(one: Export) -> Verdict:
    def find() -> Iterator[Verdict]:
        everybody = one.client in _EVERYBODY
        if "no_root_squash" in one.options:
            yield failed(f"{one.path} is served to {one.client} with root's rights", file=one.file, options=one.options)
        if everybody and not any(option.startswith("sec=krb5") for option in one.options):
            yield failed(f"{one.path} is served to everybody", file=one.file, options=one.options)
        if "insecure" in one.options:
            yield failed(f"any user of {one.client} may mount {one.path}", lower=1, file=one.file, options=one.options)

    return worst(find(), "it is served to named hosts, without root's rights")


def _judge_login(one: Login) -> Verdict:
    if one.method.upper() != "CHAP":
        return failed(f"the target {one.address} is logged in to without CHAP", node=one.node, method=one.method)
    return passed("both sides prove who they are", method=one.method)


def _judge_nfs(one: Mount, profile: Profile) -> Verdict:
    security = next((option.removeprefix("sec=") for option in one.options if option.startswith("sec=")), "sys")
    version = next((option.removeprefix("vers=") for option in one.options if option.startswith("vers=")), "")
    address = next((option.removeprefix("addr=") for option in one.options if option.startswith("addr=")), "")
    if security.startswith("krb5"):
        return passed("it is authenticated", security=security)
    if address and profile.networks.storage and _is_on(address, profile):
        return passed("it is on the storage network", security=security, address=address)
    if not profile.networks.storage:
        return unknown(f"whether {one.source} is on a storage network cannot be told: the profile names none")
    return failed(f"{one.source} is used without authentication", security=security, version=version, address=address)


def _is_on(address: str, profile: Profile) -> bool:
    return any(ip_address(address) in network for network in profile.networks.of("storage"))


@control("STO-07")
def mount_flags(host: Host, context: Context) -> Iterable[Verdict]:
    """Nothing on a file system of images is to be run, or to be taken for a device."""
    mounts = need(host.storage.mounts)
    pools = [path for path in need(host.storage.pools, {}).values() if path and not path.startswith("/dev")]
    files = need(host.images.files)
    roots = (*context.profile.image_roots, *pools)
    folders = [one for one in files.values() if one.kind == "d" and (one.path in roots or within(one.path, roots))]
    own: dict[str, Mount] = {}
    for folder in folders:
        mount = mount_of(mounts, folder.path)
        if mount is not None and mount.target != "/":
            own[mount.target] = mount
    if folders and not own:
        yield failed("images lie on the root file system, which cannot be mounted nodev, nosuid, noexec")
        return

    def judge(mount: Mount) -> Verdict:
        missing = [flag for flag in _FLAGS if flag not in mount.options]
        if missing:
            return failed(f"{mount.target} is mounted without {', '.join(missing)}", options=mount.options)
        return passed("it is mounted nodev, nosuid, noexec")

    yield from each(
        own.values(), judge, subject=lambda one: one.target, none="there is no folder of images on this host"
    )


@control("STO-08")
def host_leaves_disks_alone(host: Host, _: Context) -> Iterable[Verdict]:
    """A host that looks for volumes inside guests' disks parses what guests wrote, as root."""
    disks = [disk for vm in need(host.domains.all) for disk in vm.disks if disk.device != "cdrom"]
    blocks = sorted({disk.source for disk in disks if disk.kind == "block"})
    if not blocks:
        yield not_applicable("no VM has a block device of the host as its disk")
        return

    def find() -> Iterator[Verdict]:
        identities = {host.images.identity(path) for path in blocks} | set(blocks)
        groups = need(host.storage.groups, {})
        active = need(host.storage.active, ())
        for group, disks in groups.items():
            inside = [disk for disk in disks if disk in identities or host.images.identity(disk) in identities]
            if inside:
                how = "in use by" if group in active else "visible to"
                yield failed(
                    f"the volume group {group} inside a guest's disk is {how} the host", group=group, disk=inside
                )
        if isinstance(host.storage.groups, Known) and not _is_filtered(host, need(host.storage.lvm)):
            yield failed("LVM of the host looks into all disks: no filter, no list of devices", disks=blocks)
        yield from _automounters(host)

    yield worst(find(), "the host does not look into guests' disks")


def _is_filtered(host: Host, settings: dict[str, str]) -> bool:
    """By a list of devices, which counts only if it is there, or by a filter that refuses something."""
    if settings.get("use_devicesfile") == "1":
        devices = host.paths.at("/etc/lvm/devices/" + settings.get("devicesfile", "system.devices").strip('"'))
        if not isinstance(devices, Absent):
            return bool(need(devices).path)
    return any(_refuses(settings.get(name, "")) for name in ("global_filter", "filter"))


def _refuses(patterns: str) -> bool:
    """lvm.conf(5): the first pattern that fits holds, so nothing is refused after one that takes everything."""
    for action, expression in re.findall(r"""["']([ar])\W(.*?)\W?["']""", patterns):
        if action == "r":
            return True
        if expression in {".*", ".*/", ""}:
            return False
    return False


def _automounters(host: Host) -> Iterator[Verdict]:
    units = need(host.units.all, {})
    for name in _AUTOMATIC:
        if name in units and units[name].active:
            yield failed(f"{name} probes every disk that appears", unit=name)


@control("STO-09")
def no_guest_mounted(host: Host, _: Context) -> Iterable[Verdict]:
    """The kernel's file systems are not made for images that somebody hostile wrote."""
    domains = need(host.domains.all)
    disks = {disk.source: vm for vm in domains for disk in vm.disks if disk.source and disk.device in {"disk", "lun"}}
    if not disks:
        yield not_applicable("no VM has a disk")
        return
    images = {host.images.identity(path): path for path in disks} | {path: path for path in disks}

    def find() -> Iterator[Verdict]:
        mounts = need(host.storage.mounts)
        for number, (device, path) in _devices_on(host, images).items():
            mounted = next((one.target for one in mounts if one.number == number), "")
            if not mounted and _is_blkback(device, disks[path]):
                continue
            what = f"mounted at {mounted}" if mounted else f"attached as {device}"
            yield failed(
                f"{path} of {disks[path].name} is {what} in the host",
                severity=Severity.CRITICAL if disks[path].running and mounted else None,
                lower=0 if mounted else 1,
                device=device,
                source=path,
            )
        yield from _by_programs(host, mounts, disks)
        need(host.images.files)  # without them an image is known by one of its names only

    yield worst(find(), "the host has mounted no guest's disk")


def _is_blkback(device: str, vm: Domain) -> bool:
    """Xen itself shows files to its guests through loop devices."""
    return device.startswith("/dev/loop") and vm.origin != "libvirt" and vm.running


def _devices_on(host: Host, images: dict[str, str]) -> dict[str, tuple[str, str]]:
    """By number: devices of the host that show a guest's image or a piece of it, and which image that is.

    `images`: identities and paths of guests' images -> path.
    """
    found: dict[str, tuple[str, str]] = {}
    for loop in need(host.storage.loops):
        path = loop.file.removesuffix(" (deleted)")
        found[loop.number] = loop.device, images.get(path) or images.get(host.images.identity(path), "")
    for mapped in need(host.storage.mapped):
        if not mapped.uuid.startswith("mpath-"):
            ways = [images.get(f"device {below}") or found.get(below, ("", ""))[1] for below in mapped.below]
            found[mapped.number] = mapped.name, next(filter(None, ways), "")
    for mount in need(host.storage.mounts):
        whole = _PARTITION.match(mount.source)
        loops = dict(found.values())
        path = images.get(f"device {mount.number}", "") or (loops.get(whole.group(1), "") if whole else "")
        if path:
            found[mount.number] = mount.source, path
    return {number: (device, path) for number, (device, path) in found.items() if path}


def _by_programs(host: Host, mounts: Iterable[Mount], disks: dict[str, Domain]) -> Iterator[Verdict]:
    for mount in mounts:
        if mount.kind in _EMULATOR_MOUNTS:
            yield failed(f"a guest's disk is mounted at {mount.target} by guestmount", lower=1, mount=mount.target)
    for device, pid in need(host.storage.network_blocks).items():
        server = [one for one in need(host.processes.all) if str(one.pid) == pid]
        words = [word for one in server for word in one.arguments]
        source = next((word for word in words if word in disks), "")
        if source or not server:
            yield failed(f"{source or 'an image'} is attached as {device} in the host", device=device, pid=pid)
