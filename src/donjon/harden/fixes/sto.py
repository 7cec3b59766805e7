# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area STO: who reads images, how their file systems are mounted, and what LVM of the host looks into.

Sources: libvirt, src/qemu/qemu.conf.in (dynamic_ownership); mount(8), fstab(5); lvm.conf(5): what lvmlocal.conf sets
comes over lvm.conf; in a filter a device is refused if all of its names that match something match "r" first.
"""

from __future__ import annotations

import re

from donjon.audit.catalogue import FixClass
from donjon.audit.fact import Unseen, need
from donjon.audit.facts.host import Host
from donjon.audit.facts.images import ImageFile, within
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Command, Edit, Permissions, fix
from donjon.harden.editors import Rewrite
from donjon.harden.services import libvirt_restarted, restarted

_GROUPS = ("root", "qemu", "kvm", "libvirt-qemu", "libvirt", "disk", "tss", "swtpm", "oracle", "nobody", "nogroup")
"""Groups of emulators, and of storage that squashes."""

_STICKY = 0o1000
_FLAGS = ("nodev", "nosuid", "noexec")
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9_.:@+-]+)+")
_LVM_LOCAL = "/etc/lvm/lvmlocal.conf"
_OPTIONS = r"""sed -n 's|^[^ ]* {target} [^ ]* \([^ ]*\) .*|\1|p' "$ROOT/proc/mounts" | tail -n 1"""
_UNMOUNT_FLAGS = """\
options=
case ,$(cat "$BEFORE"), in *,nodev,*) ;; *) options=$options,dev ;; esac
case ,$(cat "$BEFORE"), in *,nosuid,*) ;; *) options=$options,suid ;; esac
case ,$(cat "$BEFORE"), in *,noexec,*) ;; *) options=$options,exec ;; esac
[ -z "$options" ] || mount -o "remount$options" {target}"""


@fix("STO-01")
def images_private(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Root and the emulator read an image, nobody else; programs that have it open keep it."""
    image = _seen(result.subject, host)
    if image.kind != "f":
        raise Unseen("permissions of a device are made at every boot: write a rule for udev")
    qemu = need(host.libvirt.qemu, absent={})
    emulator = {str(qemu.get("user", "")), *_GROUPS[1:4]}
    if qemu.get("dynamic_ownership", 1) == 0 and not {image.user, image.group} & emulator:
        raise Unseen(
            "libvirt does not give images to QEMU here (dynamic_ownership): QEMU may need to read it as others"
        )
    drop = 0o007 | (0 if image.group in _GROUPS else 0o070)
    return Change(
        f"nobody but root and the emulator reads {image.path}", (Permissions(image.path, at_most=0o7777 & ~drop),)
    )


@fix("STO-02")
def folders_private(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Others neither list a folder of images nor write to it; who knows a name can still go through."""
    folder = _seen(result.subject, host)
    if folder.mode & _STICKY or folder.path.count("/") < 2:
        raise Unseen(f"{folder.path} is there for others than VMs, too: move the images")
    drop = 0o006 | (0 if folder.group in _GROUPS else 0o020)
    return Change(
        f"nobody but root and the emulator lists {folder.path}", (Permissions(folder.path, at_most=0o7777 & ~drop),)
    )


def _seen(path: str, host: Host) -> ImageFile:
    return need(host.images.at(path))


@fix("STO-07")
def nothing_runs_from_images(result: Result, host: Host, profile: Profile) -> Change | None:
    """A file system of images alone is mounted nodev, nosuid, noexec, now and at the next boot."""
    target = result.subject
    if not target:
        return None
    pools = [path for path in need(host.storage.pools, absent={}).values() if path]
    roots = (*profile.image_roots, *pools)
    if not _PLAIN_PATH.fullmatch(target) or not (target in roots or within(target, roots)):
        raise Unseen(f"{target} holds more than images: give these a file system of their own")
    state = _OPTIONS.format(target=re.escape(target))
    remount = f"mount -o remount,{','.join(_FLAGS)} {target}"
    return Change(
        f"nothing on {target} is run, or taken for a device",
        (
            Edit("/etc/fstab", _with_flags(target)),
            Command(f"remount {target}", remount, _UNMOUNT_FLAGS.format(target=target), state),
        ),
        fix_class=FixClass.GUARDED,
    )


def _with_flags(target: str) -> Rewrite:
    """The rewrite raises ValueError: the file system is mounted by something else."""
    line = re.compile(rf"(?m)^([ \t]*[^#\s]\S*[ \t]+{re.escape(target)}[ \t]+\S+[ \t]+)(\S+)")

    def change(found: re.Match[str]) -> str:
        options = [one for one in found[2].split(",") if one not in {"dev", "suid", "exec", *_FLAGS}]
        return found[1] + ",".join([*options, *_FLAGS])

    def rewrite(text: str) -> str:
        if not line.search(text):
            raise ValueError(f"{target} is not mounted by /etc/fstab")
        return line.sub(change, text)

    return rewrite


@fix("STO-08")
def lvm_leaves_guests_alone(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """LVM of the host refuses to look into block devices that VMs have as disks."""
    disks = [disk for vm in need(host.domains.all) for disk in vm.disks if disk.device != "cdrom"]
    blocks = sorted({disk.source for disk in disks if disk.kind == "block"})
    settings = need(host.storage.lvm)
    if settings.get("use_devicesfile") == "1":
        raise Unseen("LVM has a list of its devices already: take those of guests out with `lvmdevices --deldev`")
    if re.search(r"""["'][ar]\W(?!\.\*)""", settings.get("global_filter", "")):
        raise Unseen("there is a global_filter already: add the guests' disks to it")
    if odd := [path for path in blocks if not _PLAIN_PATH.fullmatch(path)]:
        raise Unseen(f"{odd[0]!r} cannot stand in a filter")
    refused = ", ".join(f'"r|^{re.sub("[.+]", lambda found: f"[{found[0]}]", path)}$|"' for path in blocks)
    setting = f"global_filter = [ {refused} ]"
    return Change(
        "LVM of the host does not look into disks of guests",
        (Edit(_LVM_LOCAL, _with_devices(f"devices {{\n\t{setting}\n}}\n"), mode=0o644),),
        tests=("lvm dumpconfig devices/global_filter | grep -q 'r|' && pvs >/dev/null",),
        preview=f"pvs --config 'devices {{ {setting} }}' --noheadings -o pv_name,vg_name",
        note="shown is what LVM finds then; volume groups that are active stay so until they are deactivated",
    )


def _with_devices(section: str) -> Rewrite:
    return lambda text: text if section in text else text + section


@fix("STO-12")
def secrets_private(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """A secret's value is handed to nobody; by its file, for libvirt does not take such an order back."""
    if result.subject.startswith("/"):
        folder = result.subject == "/etc/libvirt/secrets"
        wanted = Permissions(result.subject, at_most=0o700 if folder else 0o600)
        return Change(f"nobody but root has access to {result.subject}", (wanted,))
    if not re.fullmatch(r"[0-9a-f-]{36}", result.subject):
        return None
    return Change(
        f"libvirt hands the value of secret {result.subject} to nobody",
        (Edit(f"/etc/libvirt/secrets/{result.subject}.xml", _private),),
        activate=(libvirt_restarted(), restarted("virtsecretd")),
    )


def _private(xml: str) -> str:
    found = re.search(r"<secret\b[^>]*>", xml)
    if found is None:
        raise ValueError("it is no secret of libvirt")
    head = re.sub(r"""\sprivate=(['"]).*?\1""", "", found[0])
    return xml.replace(found[0], f"{head[:-1]} private='yes'>", 1) if "private='yes'" not in found[0] else xml
