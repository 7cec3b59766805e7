# SPDX-License-Identifier: Apache-2.0
"""A VM as its hypervisor defines it: one model for libvirt XML, xl, xm and vm.cfg."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct, field


class DiskFact(Struct, frozen=True):
    """A disk, CD or floppy.

    `source` is a path or URL, "POOL/VOLUME" of kind volume, "" for an empty drive; `format` "" if it is not said;
    `backing`: the images behind it, as far as the definition names them.
    """

    target: str
    source: str
    format: str = ""
    device: str = "disk"
    kind: str = "file"
    read_only: bool = False
    shareable: bool = False
    bus: str = ""
    backing: tuple[str, ...] = ()


class NicFact(Struct, frozen=True):
    """A network card.

    `kind`: bridge, network, direct, hostdev, vhostuser, user, ...; `source` names the bridge, network or device; `tap`
    is the interface on the host while it runs. `port`: openvswitch, 802.1Qbh, ...; `trusts_guest`: the guest may change
    its receive filter.
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
    port: str = ""
    address: str = ""
    trusts_guest: bool = False


class ConsoleFact(Struct, frozen=True):
    """A graphical console.

    `listen`: addresses; ("none",) or ("socket",) if it is not on the network; () if the definition leaves it to the
    host's default. `password_unseen`: nobody could see whether there is one, so `has_password` says nothing;
    `insecure`: SPICE asks for no password (disable-ticketing).
    """

    kind: str
    listen: tuple[str, ...]
    port: int = -1
    tls_port: int = -1
    has_password: bool = False
    password_expires: str = ""
    insecure: bool = False
    password_unseen: bool = False


class ChannelFact(Struct, frozen=True):
    """A serial or parallel port, console or channel, and where it ends on the host. `where`: path or host:port."""

    device: str
    kind: str
    where: str = ""
    mode: str = ""
    tls: bool = False
    target: str = ""


class DeviceFact(Struct, frozen=True):
    """Any other device, and devices of the host that are handed over.

    `kind`: pci, usb, mdev, scsi, scsi_host, redirdev, sound, controller, watchdog, ...; `address`: of the host's device
    ("0000:3b:00.0", "1234:5678"); `model`: of an emulated one; `options`: as the definition says them.
    """

    kind: str
    address: str = ""
    model: str = ""
    options: dict[str, str] = field(default_factory=dict)


class ShareFact(Struct, frozen=True):
    """A directory of the host that the guest sees. `mode`: passthrough, mapped, squash."""

    source: str
    target: str
    driver: str = ""
    mode: str = ""
    read_only: bool = False


class CpuFact(Struct, frozen=True):
    """The CPU a guest is given: `mode` host-passthrough, host-model, maximum, custom; `features`: name -> policy."""

    mode: str = ""
    model: str = ""
    features: dict[str, str] = field(default_factory=dict)


class Domain(Struct, frozen=True):
    """A VM. `origin`: libvirt, xl, xm or vm.cfg. What is said of a running VM holds now; `stored`: at its next start.

    `labels` are donjon's, from the metadata (tenant, owner, ...); `options` are switches of xl, xm and vm.cfg that
    donjon looks at, as text; `file` is the definition, where it is one that people edit.
    """

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
    machine: str = ""
    emulator: str = ""
    device_tree: str = ""
    cpu: CpuFact = field(default_factory=CpuFact)
    devices: tuple[DeviceFact, ...] = ()
    shares: tuple[ShareFact, ...] = ()
    on_crash: str = ""
    dump_core: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    file: str = ""

    @property
    def key(self) -> str:
        """What stays the same between audits: its UUID, or its name where it has none."""
        return self.uuid or self.name

    @property
    def states(self) -> Iterator[tuple[str, Domain]]:
        """What holds now, and what will at its next start."""
        yield ("now" if self.running else "at its next start"), self
        if self.stored is not None:
            yield "at its next start", self.stored
