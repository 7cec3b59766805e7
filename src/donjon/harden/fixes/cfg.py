# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area CFG: see the catalogue."""

from __future__ import annotations

from donjon.audit.bundle import PathInfo
from donjon.audit.controls.cfg import KEY_GROUPS
from donjon.audit.fact import Known
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Edit, Permissions, Want, fix
from donjon.harden.editors import assignments

OTHERS = 0o007
OTHERS_WRITE = 0o022


@fix("CFG-01")
def private_libvirt_configuration(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Only root changes libvirt's configuration, and others cannot read files that they could."""
    return _roots_alone(result, host)


@fix("CFG-02")
def private_xen_configuration(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Only root changes definitions and scripts of Xen guests, and others cannot read those that they could."""
    return _roots_alone(result, host)


@fix("CFG-03")
def private_oracle_vm_configuration(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Only root changes the configuration of the Oracle VM agent, and others cannot read files that they could."""
    return _roots_alone(result, host)


@fix("CFG-04")
def private_keys(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """A private key is its owner's; of groups, only one that is made for it can go on reading.

    None for one whose owner is wrong: who needs it, only a person knows.
    """
    if not result.subject.startswith("/"):
        return None
    seen = _seen(result, host)
    group_reads = seen and seen.gid != 0 and seen.group in KEY_GROUPS and seen.mode & 0o040
    return _less(result, seen, 0o640 if group_reads else 0o600, f"{result.subject} is private")


@fix("CFG-11")
def no_way_in_for_others(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Only root, and whom root lets, can write to a folder on the way to images, configurations and sockets.

    None for a folder that belongs to somebody: why, only a person knows.
    """
    if not result.subject.startswith("/"):
        return None
    seen = _seen(result, host)
    at_most = 0o7775 if seen is None or seen.gid == 0 else 0o7755
    return _less(result, seen, at_most, f"others cannot write to {result.subject}")


@fix("CFG-12")
def control_sockets_are_private(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Only its owner and group connect to a control socket; only root to one for the administration of libvirt."""
    path = result.subject
    if not path.startswith("/"):
        return None
    is_admin = path.endswith("-admin-sock")
    wants: list[Want] = [Permissions(path, at_most=0o7700 if is_admin else 0o7770)]
    daemon = path.rpartition("/")[2].removesuffix("-admin-sock")
    daemon = "libvirtd" if daemon == "libvirt" else daemon
    daemons = host.libvirt.daemons
    if is_admin and isinstance(daemons, Known) and daemon in daemons.value:
        wants.append(Edit(f"/etc/libvirt/{daemon}.conf", assignments({"unix_sock_admin_perms": '"0700"'})))
    return Change(
        f"others cannot connect to {path}",
        tuple(wants),
        note="" if is_admin else "until whoever made the socket makes it again; see what made it so open",
    )


def _roots_alone(result: Result, host: Host) -> Change | None:
    if not result.subject.startswith("/"):
        return None
    seen = _seen(result, host)
    open_folder = seen is not None and seen.kind == "d" and seen.mode & OTHERS_WRITE
    taken = OTHERS_WRITE if open_folder else OTHERS | OTHERS_WRITE
    owner = f"root:{seen.group or seen.gid}" if seen is not None and seen.uid != 0 else ""
    wanted = Permissions(result.subject, at_most=0o7777 & ~taken, owner=owner)
    return Change(f"only root can change {result.subject}", (wanted,))


def _less(result: Result, seen: PathInfo | None, at_most: int, title: str) -> Change | None:
    """Fewer permission bits; None if it is not for too many of them that it fails."""
    if seen is not None and not seen.mode & ~at_most:
        return None
    return Change(title, (Permissions(result.subject, at_most=at_most),))


def _seen(result: Result, host: Host) -> PathInfo | None:
    found = host.paths.at(result.subject)
    return found.value if isinstance(found, Known) else None
