# SPDX-License-Identifier: Apache-2.0
"""Rules about disk images: who may read them, what they refer to; and libvirt's secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from posixpath import dirname

from donjon.audit.control import Context, control
from donjon.audit.fact import need
from donjon.audit.facts.domains import DiskFact, Domain
from donjon.audit.facts.host import Host
from donjon.audit.facts.images import ImageFile, follow, within
from donjon.audit.facts.storage import LibvirtSecret
from donjon.audit.verdict import Severity, Verdict, each, failed, not_applicable, passed, unknown

_GROUPS = ("root", "qemu", "kvm", "libvirt-qemu", "libvirt", "disk", "tss", "swtpm", "oracle", "nobody", "nogroup")
_NO_IMAGE = "no VM names an image, and the folders of images are empty"
_MEDIA = (".iso", ".xml", ".txt", ".sha256")


@control("STO-01")
def images_private(host: Host, _: Context) -> Iterable[Verdict]:
    """Whoever reads a disk image reads all of the guest; whoever writes to it owns the guest."""
    domains, files = need(host.domains.all), need(host.images.files)
    public = {disk.source for vm in domains for disk in _disks(vm) if disk.device == "cdrom"}
    public |= {path for vm in domains for path in (vm.kernel, vm.initrd, vm.device_tree, vm.loader)}
    public -= {disk.source for vm in domains for disk in _disks(vm) if disk.device in {"disk", "lun"}}
    images = [one for one in files.values() if one.kind in {"f", "b"} and one.path not in public]
    images = [one for one in images if not one.path.startswith("/usr/")]
    yield from each(
        [one for one in images if not one.path.endswith(_MEDIA) or one.mode & 0o002],
        _judge_mode,
        subject=lambda one: one.path,
        none=_NO_IMAGE,
    )
    named = {disk.source for vm in domains for disk in _disks(vm) if _is_local(disk.source, disk.kind)}
    for path in sorted(named - public - files.keys()):
        yield unknown(f"{path} was not looked at, or is not there", path)


def _disks(vm: Domain) -> tuple[DiskFact, ...]:
    return (*vm.disks, *(vm.stored.disks if vm.stored else ()))


def _is_local(source: str, kind: str) -> bool:
    return source.startswith("/") and kind in {"file", "block"}


def _judge_mode(one: ImageFile) -> Verdict:
    if one.mode & 0o006:
        what = "written" if one.mode & 0o002 else "read"
        return failed(f"{one.path} can be {what} by everybody", path=one.path, mode=one.shown)
    if one.mode & 0o060 and one.group not in _GROUPS:
        return failed(f"{one.path} is open to the group {one.group}", path=one.path, mode=one.shown)
    return passed("only root and the emulator read it", mode=one.shown)


@control("STO-02")
def folders_private(host: Host, context: Context) -> Iterable[Verdict]:
    """Who may write to a folder swaps images in it; who may list it knows which guests there are."""
    files = need(host.images.files)
    disks = [disk for vm in need(host.domains.all) for disk in _disks(vm) if disk.kind == "file"]
    places = {dirname(disk.source) for disk in disks if disk.source and disk.device in {"disk", "lun"}}
    for path in sorted(places - files.keys()):
        yield unknown(f"{path} was not looked at, or is not there", path)
    places |= {*context.profile.image_roots, *need(host.storage.pools, {}).values(), "/var/lib/libvirt/qemu/nvram"}
    folders = [one for one in files.values() if one.kind == "d" and _is_place(one.path, places)]
    none = "there is no folder of images on this host"
    yield from each(folders, _judge_folder, subject=lambda one: one.path, none=none)


def _is_place(path: str, places: set[str]) -> bool:
    """A folder of images, or one of Oracle VM's below a repository."""
    return path in places or bool(re.match(r"/OVS/Repositories/[^/]+/(VirtualDisks|Templates/[^/]+)$", path))


def _judge_folder(one: ImageFile) -> Verdict:
    if one.mode & 0o002:
        return _fail_folder(one, "everybody may write to", Severity.HIGH)
    if one.mode & 0o020 and one.group not in _GROUPS:
        return _fail_folder(one, f"the group {one.group} may write to", None)
    if one.mode & 0o004:
        return _fail_folder(one, "everybody may list", None)
    return passed("only root and the emulator list it", mode=one.shown)


def _fail_folder(one: ImageFile, what: str, severity: Severity | None) -> Verdict:
    return failed(f"{what} {one.path}, a folder of images", severity=severity, path=one.path, mode=one.shown)


@control("STO-03")
def chains_stay_inside(host: Host, context: Context) -> Iterable[Verdict]:
    """An image's header names other files that QEMU opens for the guest: any file of the host, if nobody looks."""
    profile = context.profile
    pools = tuple(path for path in need(host.storage.pools, {}).values() if path)
    approved = (*profile.image_roots, *pools)
    named = [disk.source for vm in need(host.domains.all) for disk in _disks(vm) if _is_local(disk.source, disk.kind)]
    lying = [path for path in need(host.images.headers) if within(path, approved)]

    def judge(path: str) -> Verdict:
        chain = follow(host.images, path, profile.limits.backing_chain)
        shown = " > ".join((path, *chain.images))
        outside = [one for one in chain.images if not within(one, approved)]
        if chain.problem:
            return failed(f"{path} {chain.problem}", chain=shown)
        if outside:
            return failed(f"{path} refers to {outside[0]}, which is in no approved folder", chain=shown)
        if chain.unseen:
            return unknown(f"what is behind {path} could not be seen: {chain.unseen}")
        return passed("all of its files are in approved folders", chain=shown)

    yield from each(dict.fromkeys((*named, *lying)), judge, subject=str, none=_NO_IMAGE)


@control("STO-12")
def libvirt_secrets(host: Host, _: Context) -> Iterable[Verdict]:
    """The value of a secret that is not private is handed to whoever may connect to libvirt."""

    def judge(secret: LibvirtSecret) -> Verdict:
        if not secret.private:
            return failed(f"libvirt hands out the value of secret {secret.uuid}", usage=secret.usage, private="no")
        return passed("libvirt uses it itself, and hands it to nobody", usage=secret.usage, ephemeral=secret.ephemeral)

    secrets = need(host.storage.secrets)
    if not secrets:
        yield not_applicable("libvirt keeps no secret here")
        return
    yield from each(secrets, judge, subject=lambda one: one.uuid, none="libvirt keeps no secret here")
    yield from _secret_files(host)


def _secret_files(host: Host) -> Iterator[Verdict]:
    folder = need(host.paths.at("/etc/libvirt/secrets"))
    if folder.others:
        yield failed(f"{folder.path} is open to everybody", folder.path, path=folder.path, mode=folder.shown)
    for one in need(host.paths.below(folder.path)):
        if one.mode & 0o077 and one.kind == "f":
            yield failed(f"{one.path} is open to others than root", one.path, path=one.path, mode=one.shown)
