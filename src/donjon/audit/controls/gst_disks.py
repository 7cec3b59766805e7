# SPDX-License-Identifier: Apache-2.0
"""Rules about a guest's disks: one writer each, and a format that the guest cannot choose."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from donjon.audit.control import Context, control
from donjon.audit.controls.vms import each_vm
from donjon.audit.fact import Known, need
from donjon.audit.facts.domains import DiskFact, Domain
from donjon.audit.facts.host import Host
from donjon.audit.facts.images import follow
from donjon.audit.facts.storage import mount_of
from donjon.audit.profile import matches
from donjon.audit.verdict import Severity, Verdict, failed, unknown

_LOCAL = ("file", "block")
_SHARED_FILE_SYSTEMS = {"nfs", "nfs4", "ocfs2", "gfs2", "glusterfs", "fuse.glusterfs", "ceph", "cifs", "lustre"}
_WORLD_WIDE = re.compile(r"/dev/(disk/by-id/|mapper/(?:3[0-9a-f]{16,32}|mpath)|disk/by-path/ip-)")

Users = dict[str, list[tuple[Host, Domain, DiskFact, bool]]]
"""Key of a disk -> who has it, and whether they write to it."""


@control("GST-11")
def one_writer(host: Host, context: Context) -> Iterable[Verdict]:
    """Two guests that write to one disk destroy it; one that writes to another's base changes what the other reads."""
    fleet = context.fleet or (host,)
    domains = {one.platform.id: need(one.domains.all) for one in fleet}
    users: Users = {}
    for one in fleet:
        for vm in domains[one.platform.id]:
            for key, disk, writes in _keys(one, vm, alone=one is host, limit=context.profile.limits.backing_chain):
                users.setdefault(key, []).append((one, vm, disk, writes))

    def find(vm: Domain) -> Iterator[Verdict]:
        for key, _, writes in _keys(host, vm, alone=True, limit=context.profile.limits.backing_chain):
            for other_host, other, disk, others_write in users.get(key, []):
                apart = other.key != vm.key or (other_host is not host and vm.running and other.running)
                approved = matches(disk.source, context.profile.allow.shared_disks)
                if apart and (writes or others_write) and not approved:
                    yield _shared(host, vm, other_host, other, disk)
        yield from _unread(host, vm, context.profile.limits.backing_chain)
        yield from _unseen(host, vm, [one for one in fleet if one is not host], domains)

    return each_vm(host, find, good="nobody else has its disks")


def _keys(host: Host, vm: Domain, *, alone: bool, limit: int) -> Iterator[tuple[str, DiskFact, bool]]:
    """Of each disk of a VM, and of the images behind it, which nobody may write to. `alone`: on this host, too."""
    for state in (vm, *([vm.stored] if vm.stored else [])):
        for disk in state.disks:
            if not disk.source or disk.device in {"cdrom", "floppy"}:
                continue
            local = disk.kind in _LOCAL
            behind = (*disk.backing, *follow(host.images, disk.source, limit).images) if local else disk.backing
            for number, path in enumerate((disk.source, *behind)):
                keys = {_world_wide(host, path, disk.kind)}
                keys |= {f"{host.platform.id} {host.images.identity(path) if local else path}"} if alone else set()
                yield from ((key, disk, number == 0 and not disk.read_only) for key in keys if key)


def _world_wide(host: Host, path: str, kind: str) -> str:
    """What a disk is called on every host that reaches it; "" if it is this host's own, as a volume of its pools is."""
    if kind == "volume":
        return ""
    if kind not in _LOCAL or _WORLD_WIDE.match(path):
        return path
    mount = mount_of(host.storage.mounts.value, path) if isinstance(host.storage.mounts, Known) else None
    if mount is None or mount.kind not in _SHARED_FILE_SYSTEMS:
        return ""
    return f"{mount.source}:{path.removeprefix(mount.target)}"


def _shared(host: Host, vm: Domain, other_host: Host, other: Domain, disk: DiskFact) -> Verdict:
    where = "" if other_host is host else f" on {other_host.platform.name}"
    both = vm.running and other.running
    return failed(
        f"{vm.name} and {other.name}{where} have the same disk {disk.source}, and one of them writes to it",
        severity=Severity.CRITICAL if both and not disk.shareable else None,
        source=disk.source,
        other=f"{other.name}{where}",
        running="both" if both else "not both",
    )


def _unread(host: Host, vm: Domain, limit: int) -> Iterator[Verdict]:
    """A raw disk is all by itself; what another one is made of stands in its header."""
    if any(disk.source and disk.kind in _LOCAL for disk in vm.disks):
        need(host.images.files)  # without them an image is known by one of its names only
    for disk in vm.disks:
        if disk.source and disk.kind == "file" and disk.device == "disk" and disk.format != "raw":
            chain = follow(host.images, disk.source, limit)
            if chain.unseen:
                yield unknown(f"what {disk.source} of {vm.name} is made of could not be seen: {chain.unseen}")


def _unseen(host: Host, vm: Domain, others: list[Host], domains: dict[str, tuple[Domain, ...]]) -> Iterator[Verdict]:
    """The same path on two hosts is the same file only if it lies on shared storage."""
    if not others or all(isinstance(one.storage.mounts, Known) for one in (host, *others)):
        return
    own = {disk.source for disk in vm.disks if disk.source and disk.kind == "file"}
    theirs = {disk.source for one in others for other in domains[one.platform.id] for disk in other.disks}
    if own & theirs:
        path = min(own & theirs)
        yield unknown(f"another host has a VM on {path}, too; whether it is the same file could not be seen")


@control("GST-12")
def format_is_explicit(host: Host, _: Context) -> Iterable[Verdict]:
    """A guest that owns a raw disk can write a header into it, which makes QEMU open any file if it may guess."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            for disk in state.disks:
                if disk.source and disk.kind != "dir":
                    yield from _format(host, vm, disk, when)

    return each_vm(host, find, good="the format of each of its disks is said")


def _format(host: Host, vm: Domain, disk: DiskFact, when: str) -> Iterator[Verdict]:
    if disk.format in {"", "auto"}:
        yield failed(f"{vm.name} does not say the format of {disk.source}", when=when, source=disk.source)
    elif disk.format == "raw" and disk.device in {"disk", "lun"} and disk.kind in {"file", "block"}:
        header = need(host.images.header(disk.source))
        if header.format not in {"raw", "luks"}:
            yield failed(
                f"{disk.source} of {vm.name} is raw, but begins like {header.format}",
                when=when,
                source=disk.source,
                magic=header.format,
            )
