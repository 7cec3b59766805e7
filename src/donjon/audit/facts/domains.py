# SPDX-License-Identifier: Apache-2.0
"""VMs as their hypervisor defines them: one model for libvirt XML, xl, xm and vm.cfg."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Unknown


class DiskFact(Struct, frozen=True):
    """A disk, CD or floppy. `source` is a path or URL, "" for an empty drive; `format` "" if it is not said."""

    target: str
    source: str
    format: str = ""
    device: str = "disk"
    kind: str = "file"
    read_only: bool = False
    shareable: bool = False


class NicFact(Struct, frozen=True):
    """A network card.

    `kind`: bridge, network, direct, hostdev, vhostuser, user, ...; `source` names the bridge, network or device; `tap`
    is the interface on the host while it runs.
    """

    mac: str
    kind: str
    source: str
    model: str = ""
    tap: str = ""
    filter: str = ""
    vlan: tuple[int, ...] = ()
    trunk: bool = False
    native_vlan: int = 0
    isolated: bool = False


class ConsoleFact(Struct, frozen=True):
    """A graphical console. `listen`: addresses; ("none",) or ("socket",) if it is not on the network."""

    kind: str
    listen: tuple[str, ...]
    port: int = -1
    tls_port: int = -1
    has_password: bool = False
    password_expires: str = ""
    insecure: bool = False


class ChannelFact(Struct, frozen=True):
    """A serial or parallel port, console or channel, and where it ends on the host. `where`: path or host:port."""

    device: str
    kind: str
    where: str = ""
    mode: str = ""
    tls: bool = False
    target: str = ""


class Domain(Struct, frozen=True):
    """A VM. `origin`: libvirt, xl, xm or vm.cfg. What is said of a running VM holds now; `stored`: at its next start."""

    uuid: str
    name: str
    origin: str
    running: bool
    persistent: bool = True
    autostart: bool = False
    template: bool = False
    memory_kib: int = 0
    vcpus: int = 0
    pid: int = 0
    os_type: str = ""
    boot: tuple[str, ...] = ()
    loader: str = ""
    kernel: str = ""
    initrd: str = ""
    command_line: str = ""
    bootloader: str = ""
    disks: tuple[DiskFact, ...] = ()
    nics: tuple[NicFact, ...] = ()
    consoles: tuple[ConsoleFact, ...] = ()
    channels: tuple[ChannelFact, ...] = ()
    raw_arguments: tuple[str, ...] = ()
    label_type: str = ""
    label: str = ""
    relabel: bool = True
    stored: Domain | None = None


class Domains(Struct, frozen=True):
    """All VMs that the host knows, running or not."""

    all: Fact[tuple[Domain, ...]]


def read_domains(bundle: Bundle) -> Domains:
    """From virsh dumpxml, xl list -l, files of /etc/xen, vm.cfg."""
    return Domains(Unknown("not read yet"))
