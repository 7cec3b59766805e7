# SPDX-License-Identifier: Apache-2.0
"""Storage: pools, mounts, loops, device mapper, LVM, exports, logins to targets, secrets of libvirt.

Source: proc(5) mountinfo, exports(5), lvm.conf(5), libvirt.org/formatsecret.html.
"""

from __future__ import annotations

import re
import shlex
from xml.etree.ElementTree import Element

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown, derived
from donjon.errors import ConfigError
from donjon.hypervisors.definition import attribute, child_text
from donjon.hypervisors.document import parse_document

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(Struct, frozen=True):
    """A mounted file system, with the options of the mount and of the file system."""

    source: str
    target: str
    kind: str
    options: tuple[str, ...]
    number: str = ""
    """Of its device, major:minor; as of all devices here."""


class Loop(Struct, frozen=True):
    """A loop device, and the file it shows."""

    device: str
    number: str
    file: str


class Mapped(Struct, frozen=True):
    """A device of the device mapper; `uuid` begins with who made it: LVM-, mpath-, part1-; `below`: numbers."""

    device: str
    number: str
    name: str
    uuid: str
    below: tuple[str, ...]


class Export(Struct, frozen=True):
    """A directory that is served by NFS, to whom, and how."""

    path: str
    client: str
    options: tuple[str, ...]
    file: str


class LibvirtSecret(Struct, frozen=True):
    """A secret as libvirt keeps it: never its value."""

    uuid: str
    private: bool
    ephemeral: bool
    usage: str


class Login(Struct, frozen=True):
    """How an iSCSI target is logged in to."""

    node: str
    method: str
    address: str


class Storage(Struct, frozen=True):
    """`pools`: name -> folder; `network_blocks`: device -> process id; `groups`: volume group -> disks.

    `active`: volume groups of which a volume is in use by the host; `lvm`: settings of "devices" in lvm.conf.
    """

    pools: Fact[dict[str, str]]
    mounts: Fact[tuple[Mount, ...]]
    loops: Fact[tuple[Loop, ...]]
    mapped: Fact[tuple[Mapped, ...]]
    network_blocks: Fact[dict[str, str]]
    groups: Fact[dict[str, tuple[str, ...]]]
    active: Fact[tuple[str, ...]]
    lvm: Fact[dict[str, str]]
    exports: Fact[tuple[Export, ...]]
    logins: Fact[tuple[Login, ...]]
    secrets: Fact[tuple[LibvirtSecret, ...]]


def read_storage(bundle: Bundle) -> Storage:
    """From /proc, /sys, LVM's programs, and files of libvirt, NFS and iSCSI."""
    return Storage(
        pools=derived(bundle.texts("/etc/libvirt/storage/*.xml"), _pools),
        mounts=derived(bundle.output("mounts"), parse_mounts),
        loops=derived(bundle.output("loops"), _loops),
        mapped=derived(bundle.output("mapped"), _mapped),
        network_blocks=derived(bundle.output("network-block-devices"), _pairs),
        groups=derived(bundle.output("physical-volumes"), _groups),
        active=derived(bundle.output("logical-volumes"), _active),
        lvm=derived(bundle.output("lvm-settings"), _settings),
        exports=_exports(bundle),
        logins=derived(bundle.output("iscsi-nodes"), _logins),
        secrets=derived(bundle.texts("/etc/libvirt/secrets/*.xml"), _secrets),
    )


def _pools(texts: dict[str, str]) -> dict[str, str]:
    pools = [_document(text) for text in texts.values()]
    return {child_text(pool, "name"): child_text(pool, "target/path") for pool in pools}


def _secrets(texts: dict[str, str]) -> tuple[LibvirtSecret, ...]:
    secrets = [_document(text) for text in texts.values()]
    return tuple(
        LibvirtSecret(
            uuid=child_text(secret, "uuid"),
            private=secret.get("private") == "yes",
            ephemeral=secret.get("ephemeral") == "yes",
            usage=attribute(secret.find("usage"), "type"),
        )
        for secret in secrets
    )


def _document(text: str) -> Element:
    try:
        return parse_document(text)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """From lines of /proc/self/mountinfo.

    Raises:
        ValueError: a line is none, or there is none.
    """
    mounts = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        if not dash:
            raise ValueError("not from mountinfo")
        words = before.split()
        number, target, options = words[2], words[4], words[5]
        kind, source, above = (*after.split(" "), "", "")[:3]
        mounts.append(Mount(_plain(source), _plain(target), kind, tuple(f"{options},{above}".split(",")), number))
    if not mounts:
        raise ValueError("not even the root file system is in it")
    return tuple(mounts)


def mount_of(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    """The file system that a path lies on: the last mounted of the deepest."""
    around = [one for one in mounts if f"{path}/".startswith(one.target.rstrip("/") + "/")]
    return max(reversed(around), key=lambda one: len(one.target), default=None)


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found.group(1), 8)), text)


def _pairs(text: str) -> dict[str, str]:
    return {device: value for device, _, value in (line.partition("\t") for line in text.splitlines())}


def _loops(text: str) -> tuple[Loop, ...]:
    rows = [line.split("\t", 2) for line in text.splitlines()]
    return tuple(Loop(device, number, file) for device, number, file in rows)


def _mapped(text: str) -> tuple[Mapped, ...]:
    rows = [line.split("\t") for line in text.splitlines()]
    return tuple(Mapped(device, number, name, uuid, tuple(below.split())) for device, number, name, uuid, below in rows)


def _groups(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        disk, _, group = line.strip().partition("|")
        if group:
            found[group] = (*found.get(group, ()), disk)
    return found


def _active(text: str) -> tuple[str, ...]:
    """The fifth letter of lv_attr is "a"."""
    rows = [line.strip().split("|") for line in text.splitlines() if line.strip()]
    return tuple(sorted({row[0] for row in rows if row[2][4] == "a"}))


def _settings(text: str) -> dict[str, str]:
    pairs = (line.strip().partition("=") for line in text.splitlines() if not line.strip().startswith("#"))
    return {key.strip(): value.strip() for key, sign, value in pairs if sign}


def _exports(bundle: Bundle) -> Fact[tuple[Export, ...]]:
    main, more = bundle.text("/etc/exports"), bundle.texts("/etc/exports.d/*.exports")
    if isinstance(main, Unknown) or not isinstance(more, Known):
        return main if isinstance(main, Unknown) else Unknown("/etc/exports.d could not be seen")
    if isinstance(main, Absent) and not more.value:
        return Absent("/etc/exports")
    texts = {**({"/etc/exports": main.value} if isinstance(main, Known) else {}), **more.value}
    return derived(Known(texts, "/etc/exports"), parse_exports)


def parse_exports(texts: dict[str, str]) -> tuple[Export, ...]:
    """By exports(5): PATH CLIENT(OPTIONS)..., "-OPTIONS" before clients is their default; no client means everybody.

    Raises:
        ValueError: quotes do not match.
    """
    found = []
    for file, text in texts.items():
        for line in text.replace("\\\n", " ").splitlines():
            path, *clients = shlex.split(line, comments=True) or [""]
            default = next((client[1:] for client in clients if client.startswith("-")), "")
            named = [client for client in clients if not client.startswith("-")]
            for client in (named or ["*"]) if path else []:
                host, _, options = client.rstrip(")").partition("(")
                found.append(Export(path, host or "*", tuple((options or default).split(",")), file))
    return tuple(found)


def _logins(text: str) -> tuple[Login, ...]:
    whole, end, _ = text.rpartition("@end")
    if not end:
        raise ValueError("it is cut off")
    found = []
    for part in ("\n" + whole).split("\n@node ")[1:]:
        node, _, lines = part.partition("\n")
        values = _settings(lines)
        method = values.get("node.session.auth.authmethod", "None")
        found.append(Login(node, method, values.get("node.conn[0].address", "")))
    return tuple(found)
