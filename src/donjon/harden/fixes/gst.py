# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area GST: definitions of VMs, as they will hold from the next start on; running VMs stay as they are.

The rest of the area is in gst_system. Source: libvirt.org/formatdomain.html.
"""

from __future__ import annotations

import re

from donjon.audit.controls.vms import is_private
from donjon.audit.fact import Known, Unseen, need
from donjon.audit.facts.domains import ConsoleFact, Domain
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Document, Edit, fix, words
from donjon.harden.editors import Rewrite, assignments
from donjon.harden.fixes.guest_xml import each_device, one_after_another, with_part, without_arguments, without_part

_LISTEN = re.compile(r"""(<listen type='address' address=|\slisten=)(['"])[^'"]*\2""")
_MONITORS = {"-monitor", "-qmp", "-qmp-pretty", "-mon"}
_SEED = re.compile(r"seed|cidata|cloud|config|ignition", re.IGNORECASE)
"""Names of media that a guest reads at every start, such as cloud-init's."""

_DRIVES = ("cdrom", "floppy")
_PORTS = ("serial", "parallel", "console")
_ON_NETWORK = re.compile(r"^    <\w+ type='(?:tcp|udp)'")


def definition(vm: str, rewrite: Rewrite) -> Document:
    """The definition of a VM (UUID or name) that holds from its next start on is to be what `rewrite` makes of it."""
    read = words("virsh", "dumpxml", "--inactive", "--security-info", "--domain", vm)
    return Document(f"definition of {vm}", read, 'virsh define --validate --file "$FILE"', rewrite)


def stored_vm(result: Result, host: Host) -> Domain:
    """The VM a result is about, as it will start the next time. Raises Unseen: libvirt keeps no definition of it."""
    found = next((vm for vm in need(host.domains.all) if vm.key == result.subject), None)
    if found is None or found.origin != "libvirt" or not found.persistent:
        raise Unseen(f"libvirt keeps no definition of {result.name or result.subject}")
    return found.stored or found


def redefined(result: Result, title: str, *rewrites: Rewrite, note: str = "") -> Change:
    """A change of a VM's definition; it notices when it is started the next time."""
    return Change(
        title,
        (definition(result.subject, one_after_another(*rewrites)),),
        guests=(result.name,),
        note="; ".join(filter(None, ("in force when the VM is started the next time", note))),
    )


@fix("GST-01")
def console_on_loopback(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """VNC and SPICE listen on loopback, by the definition or, where it says nothing, by libvirt's default."""
    if "K" not in need(host.platform.kinds) or not result.subject:
        return None
    change = redefined(
        result,
        f"the console of {result.name} listens on loopback only",
        each_device("graphics", _on_loopback),
        note="reach its console through ssh",
    )
    vms = host.domains.all.value if isinstance(host.domains.all, Known) else ()
    consoles = [one for vm in vms if vm.key == result.subject for _, state in vm.states for one in state.consoles]
    if any(one.has_password or one.password_unseen for one in consoles):
        raise Unseen("the line to be changed holds a console's password, which must not be in a plan: use `virsh edit`")
    open_ = _open_by_default(consoles, host)
    if not open_:
        return change
    wants = (*change.wants, Edit("/etc/libvirt/qemu.conf", assignments(open_)))
    return Change(change.title, wants, guests=change.guests, note=change.note)


def _open_by_default(consoles: list[ConsoleFact], host: Host) -> dict[str, str]:
    """What libvirt's default must be for consoles that leave it to that."""
    keys = {f"{console.kind}_listen" for console in consoles if not console.listen}
    defaults = need(host.libvirt.qemu, absent={}) if keys else {}
    return {key: '"127.0.0.1"' for key in sorted(keys) if not is_private(str(defaults.get(key, "127.0.0.1")))}


def _on_loopback(graphics: str) -> str:
    if not re.match(r"    <graphics type='(?:vnc|spice)'", graphics):
        return graphics
    return _LISTEN.sub(r"\1'127.0.0.1'", graphics)


@fix("GST-04")
def ports_on_terminals(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Serial and parallel ports that listen on the network end in a terminal of the host instead."""
    vm = stored_vm(result, host)
    exposed = [one for one in vm.channels if one.kind in {"tcp", "udp", "telnet"} and not one.tls]
    if other := [one for one in exposed if one.device not in _PORTS or one.mode != "bind"]:
        raise Unseen(f"its {other[0].device} port is joined to {other[0].where}: what that is, only a person can tell")
    return redefined(
        result,
        f"the ports of {result.name} are not on the network",
        *(each_device(tag, _in_terminal) for tag in _PORTS),
        note=f"reach them with `virsh console {result.name}`",
    )


def _in_terminal(port: str) -> str:
    if not _ON_NETWORK.match(port) or "<protocol type='tls'/>" in port or " tls='yes'" in port:
        return port
    return re.sub(r"(?<= type=)'(?:tcp|udp)'", "'pty'", without_part(port, "source", "protocol"), count=1)


@fix("GST-05")
def no_second_monitor(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """QEMU opens no monitor but libvirt's own."""
    stored_vm(result, host)
    title = f"nobody but libvirt reaches QEMU's monitor of {result.name}"
    return redefined(result, title, without_arguments(_monitor_places))


def _monitor_places(values: list[str]) -> set[int]:
    """Of options for monitors and their values, and of the back ends that only these use."""
    names: set[str] = set()
    places: set[int] = set()
    for at, value in enumerate(values[:-1]):
        if _plain(value) in _MONITORS and values[at + 1] != "none":
            places |= {at, at + 1}
            parts = values[at + 1].split(",")
            names |= {word.removeprefix("chardev=").removeprefix("chardev:") for word in parts}
    for at, value in enumerate(values[:-1]):
        if _plain(value) == "-chardev" and any(f"id={name}" in values[at + 1].split(",") for name in names):
            places |= {at, at + 1}
    return places


@fix("GST-06")
def no_debugger(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """QEMU waits for no debugger."""
    stored_vm(result, host)
    return redefined(result, f"no debugger gets to {result.name}", without_arguments(_debugger_places))


def _debugger_places(values: list[str]) -> set[int]:
    places = {at for at, value in enumerate(values) if _plain(value) in {"-s", "-gdb"}}
    return places | {at + 1 for at in places if _plain(values[at]) == "-gdb" and at + 1 < len(values)}


def _plain(argument: str) -> str:
    """QEMU takes "--name" for "-name"."""
    return argument[1:] if argument.startswith("--") else argument


@fix("GST-10")
def shares_read_only(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """The guest reads the host's directories, and does not write to them; libvirt 9 can do that for 9p alone."""
    vm = stored_vm(result, host)
    if any(share.driver == "virtiofs" and not share.read_only for share in vm.shares):
        raise Unseen("a share by virtiofs cannot be made read-only by its definition")
    return redefined(
        result,
        f"{result.name} writes to no directory of the host",
        each_device("filesystem", lambda one: one if "<readonly/>" in one else with_part(one, "<readonly/>")),
        note="what the guest writes there fails",
    )


@fix("GST-12")
def formats_said(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """A disk whose format is not said is raw, if that is what it looks like; else a person must tell."""
    vm = stored_vm(result, host)
    for disk in vm.disks:
        header = host.images.header(disk.source) if disk.source else None
        is_raw = isinstance(header, Known) and header.value.format in {"raw", "luks"}
        if disk.format in {"", "auto", "raw"} and disk.device in {"disk", "lun"} and not is_raw:
            raise Unseen(f"{disk.source} does not look like a raw disk: what it is, only a person can tell")
    return redefined(result, f"{result.name} says the format of each disk", each_device("disk", _with_format))


def _with_format(disk: str) -> str:
    if "<driver " not in disk:
        return with_part(disk, "<driver name='qemu' type='raw'/>")
    driver = re.search(r"<driver [^>]*?/?>", disk)
    if driver is None or (" type='" in driver[0] and " type='auto'" not in driver[0]):
        return disk
    said = driver[0].replace(" type='auto'", "").replace("<driver ", "<driver type='raw' ", 1)
    return disk.replace(driver[0], said, 1)


@fix("GST-14")
def boots_from_its_disk(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """The VM boots from its disk, and drives are empty; a medium that looks like cloud-init's stays."""
    vm = stored_vm(result, host)
    if not any(disk.device in {"disk", "lun"} for disk in vm.disks):
        raise Unseen("it has no disk to boot from")
    if kept := [disk.source for disk in vm.disks if disk.device in _DRIVES and _SEED.search(disk.source)]:
        raise Unseen(f"{kept[0]} may be what the guest is configured by at every start")
    rewrites = [each_device("disk", _emptied)]
    if vm.boot[:1] == ("network",):
        rewrites += [_disk_first, each_device("interface", lambda one: without_part(one, "boot"))]
    return redefined(result, f"{result.name} boots from its disk, and its drives are empty", *rewrites)


def _emptied(disk: str) -> str:
    drive = re.match(r"    <disk type='(?:file|block)' device='(?:cdrom|floppy)'", disk)
    return without_part(disk, "source", "backingStore") if drive else disk


def _disk_first(xml: str) -> str:
    """Without the network among the boot devices of <os>; if there is no other, the disk."""
    boots = re.findall(r"(?m)^    <boot dev='(\w+)'/>\n", xml)
    if "network" not in boots:
        return xml
    instead = "" if set(boots) - {"network"} else "    <boot dev='hd'/>\n"
    return re.sub(r"(?m)^    <boot dev='network'/>\n", instead, xml, count=1).replace("    <boot dev='network'/>\n", "")
