# SPDX-License-Identifier: Apache-2.0
"""A sosreport as a bundle: what sos(1) saw of a host, under the names of our own probes.

A sosreport does not say what was looked for: absence is never concluded from it, and what is not in it is unknown. Only
members whose format is that of the probe, or can be made so without a guess, are used.

Source: sos 4, sos/report/plugins (names of members are command lines, with other characters as "_").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from donjon.audit.bundle import Bundle, Manifest, Output
from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.tar_members import Limits, as_text, members
from donjon.errors import ConfigError, IntegrityError

LIMITS = Limits(member=4 << 20, total=8 << 30, count=1_000_000)
_FOLDER = re.compile(r"sosreport-(.+?)(?:-\d+)?-(\d{4}-\d\d-\d\d)-\w+")
_FILES = ("etc/", "usr/lib/systemd/", "usr/share/polkit-1/", "proc/cmdline")
_SAME = {
    "uname": ("sos_commands/kernel/uname_-a", "uname"),
    "cmdline": ("proc/cmdline",),
    "machine-id": ("etc/machine-id",),
    "meminfo": ("proc/meminfo",),
    "mounts": ("proc/self/mountinfo",),
    "chkconfig": ("sos_commands/services/chkconfig_--list", "chkconfig"),
    "ip-addresses": ("sos_commands/networking/ip_address_show", "sos_commands/networking/ip_-d_address"),
    "bridges": ("sos_commands/networking/brctl_show",),
    "bridge-vlans": ("sos_commands/networking/bridge_vlan_show", "sos_commands/networking/bridge_-d_vlan_show"),
    "vlans": ("proc/net/vlan/config",),
    "iptables": ("sos_commands/firewall_tables/iptables-save", "sos_commands/networking/iptables-save"),
    "ip6tables": ("sos_commands/firewall_tables/ip6tables-save", "sos_commands/networking/ip6tables-save"),
    "firewalld-running": ("sos_commands/firewalld/firewall-cmd_--list-all-zones",),
    "firewalld-stored": ("sos_commands/firewalld/firewall-cmd_--permanent_--list-all-zones",),
    "sshd-settings": ("sos_commands/ssh/sshd_-T",),
    "audit-status": ("sos_commands/auditd/auditctl_-s",),
    "audit-rules": ("sos_commands/auditd/auditctl_-l",),
    "chrony-tracking": ("sos_commands/chrony/chronyc_-n_tracking", "sos_commands/chrony/chronyc_tracking"),
    "chrony-sources": ("sos_commands/chrony/chronyc_-n_sources",),
    "ntp-peers": ("sos_commands/ntp/ntpq_-pn",),
    "efibootmgr": ("sos_commands/boot/efibootmgr_-v",),
    "libvirt-capabilities": ("sos_commands/virsh/virsh_-r_capabilities",),
    "xen-info": ("sos_commands/xen/xl_info", "sos_commands/xen/xm_info"),
    "xen-messages": ("sos_commands/xen/xl_dmesg", "sos_commands/xen/xm_dmesg"),
}
_Texts = dict[str, str]


def read_evidence(path: Path) -> Bundle:
    """A bundle from a file, be it one of donjon's own or a sosreport; compressed or not.

    Raises:
        ConfigError: there is no such file.
        IntegrityError: it is neither, cut short, or too large.
    """
    try:
        with path.open("rb") as file:
            first = next(members(file, LIMITS, cut_large=True), None)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except IntegrityError:
        first = None  # `read_bundle` says what is wrong, and with which file
    if first and _FOLDER.match(first.name):
        return read_sosreport(path)
    return read_bundle(path)


def read_sosreport(path: Path) -> Bundle:
    """The bundle a sosreport makes.

    Raises:
        ConfigError: there is no such file.
        IntegrityError: it is no sosreport, cut short, or far too large.
    """
    folder, texts = "", {}
    try:
        with path.open("rb") as file:
            for member in members(file, LIMITS, cut_large=True):
                folder = folder or member.name.partition("/")[0]
                name = member.name.partition("/")[2]
                if member.kind == "0" and name.startswith(("sos_commands/", "proc/", "sys/", *_FILES, "uname")):
                    texts[name] = as_text(member.content)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    named = _FOLDER.fullmatch(folder)
    if not named:
        raise IntegrityError(f"cannot use {path} as a sosreport: its folder is not called sosreport-HOST-DATE-ID")
    commands = _commands(texts)
    files = {
        f"/{name}": text for name, text in texts.items() if name.startswith(_FILES) and ".." not in name.split("/")
    }
    host = texts.get("etc/hostname", "").strip() or named.group(1)
    manifest = Manifest("sosreport", "", host, f"{named.group(2)}T00:00:00+00:00", "root", tuple(commands))
    return Bundle(manifest, commands, files, frozenset(files))


def _commands(texts: _Texts) -> dict[str, Output]:
    found: _Texts = {}
    for probe, names in _SAME.items():
        there = [texts[name] for name in names if name in texts]
        if there and not _failed(there[0]):
            found[probe] = there[0]
    for probe, make in _MADE.items():
        text = make(texts)
        if text:
            found[probe] = text
    return {probe: Output(0, text) for probe, text in found.items()}


def _failed(text: str) -> bool:
    """Sos writes the complaint of a command where its output would be."""
    first = text.partition("\n")[0]
    return not text.strip() or "command not found" in first or "No such file" in first or first.startswith("timeout:")


def _hypervisors(texts: _Texts) -> str:
    signs = {"libvirt-qemu": "etc/libvirt/qemu.conf", "xl": "sos_commands/xen/xl_info", "oracle-vm": "etc/ovs-release"}
    return "".join(f"{word}\n" for word, sign in signs.items() if sign in texts)


def _init(texts: _Texts) -> str:
    return "systemd\n" if any(name.startswith("sos_commands/systemd/") for name in texts) else ""


def _processor(texts: _Texts) -> str:
    return texts.get("proc/cpuinfo", "").partition("\n\n")[0]


def _flags(texts: _Texts) -> str:
    lines = texts.get("proc/cpuinfo", "").splitlines()
    return next((line + "\n" for line in lines if line.startswith(("flags", "Features"))), "")


def _grepped(folder: str) -> Callable[[_Texts], str]:
    """As `grep -H .` prints the files of a folder."""

    def make(texts: _Texts) -> str:
        found = ((name.removeprefix(folder), text) for name, text in sorted(texts.items()) if name.startswith(folder))
        return "".join(f"{name}:{line}\n" for name, text in found for line in text.splitlines())

    return make


def _bonds(texts: _Texts) -> str:
    lines = _grepped("proc/net/bonding/")(texts).splitlines()
    return "".join(f"/proc/net/bonding/{line}\n" for line in lines if ":Slave Interface" in line)


def _forwarding(texts: _Texts) -> str:
    """Of `sysctl -a`: "net.ipv4.ip_forward = 1"; a dot in an interface's name is a slash there."""
    wanted = re.compile(r"(net\.ipv4\.ip_forward|net\.ipv[46]\.conf\.(.+)\.forwarding) = (\d+)")
    found = filter(None, map(wanted.fullmatch, texts.get("sos_commands/kernel/sysctl_-a", "").splitlines()))
    return "".join(f"/proc/sys/{_sysctl(name)}:{value}\n" for name, _, value in (line.groups() for line in found))


def _sysctl(name: str) -> str:
    return name.translate({ord("."): "/", ord("/"): "."})


def _mandatory_access(texts: _Texts) -> str:
    """Of `sestatus -b`."""
    lines = (line.partition(":") for line in texts.get("sos_commands/selinux/sestatus_-b", "").splitlines())
    said = {name.strip(): value.strip() for name, _, value in lines}
    if "SELinux status" not in said:
        return ""
    enforcing = said.get("Current mode") == "enforcing"
    now = f"selinux {enforcing:d}\n" if said["SELinux status"] == "enabled" else ""
    return f"{now}configured {said.get('Mode from config file', 'disabled')}\n"


def _rpms(texts: _Texts) -> str:
    """Of the plugin rpm: "NAME-VERSION-RELEASE.ARCH", its time in words, and in seconds; epoch and source it lacks."""
    lines = [line.split("\t") for line in texts.get("sos_commands/rpm/package-data", "").splitlines()]
    names = [(re.fullmatch(r"(.+)-([^-]+-[^-]+)\.([^.]+)", line[0]), line) for line in lines if len(line) > 2]
    if not names or not all(name for name, _ in names):
        return ""
    rows = ["\t".join((*name.groups(), "", line[2])) for name, line in names if name]
    return "\n".join(["rpm", *rows, "end", ""])


def _listed(member: str) -> Callable[[_Texts], str]:
    """As systemctl prints a list with `--plain --no-legend`: without heading, marks and what follows."""

    def make(texts: _Texts) -> str:
        body = texts.get(member, "").partition("\n")[2].partition("\n\n")[0]
        return "".join(f"{line.lstrip(' ●*')}\n" for line in body.splitlines())

    return make


def _named(texts: _Texts, command: str) -> Iterator[str]:
    prefix = f"sos_commands/virsh/virsh_-r_{command}_"
    return (text.strip() for name, text in sorted(texts.items()) if name.startswith(prefix) and not _failed(text))


def _networks(texts: _Texts) -> str:
    found = "".join(f"@network\n{text}\n" for text in _named(texts, "net-dumpxml"))
    return f"{found}@end\n" if found else ""


def _domains(texts: _Texts) -> str:
    """All definitions; which of the VMs start with the host it does not say, and none is taken to."""
    parts: list[str] = []
    there: list[str] = []
    for text in _named(texts, "dumpxml"):
        uuid = re.search(r"<uuid>([0-9a-f-]{36})</uuid>", text)
        if not uuid:
            return ""
        parts.append(f"@live {uuid.group(1)}\n{text}\n")
        there.append(f"{uuid.group(1)}\n")
    if not parts:
        return ""
    return "".join([*parts, "@autostart\n", "@persistent\n", *there, "@there\n", *there, "@end\n"])


_MADE: dict[str, Callable[[_Texts], str]] = {
    "hypervisors": _hypervisors,
    "init": _init,
    "cpu": _processor,
    "cpu-flags": _flags,
    "cpu-vulnerabilities": _grepped("sys/devices/system/cpu/vulnerabilities/"),
    "ksm": _grepped("sys/kernel/mm/ksm/"),
    "bonds": _bonds,
    "forwarding": _forwarding,
    "mandatory-access": _mandatory_access,
    "packages": _rpms,
    "unit-files": _listed("sos_commands/systemd/systemctl_list-unit-files"),
    "units": _listed("sos_commands/systemd/systemctl_list-units_--all"),
    "libvirt-networks": _networks,
    "domains": _domains,
}
