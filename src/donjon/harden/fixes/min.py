# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area MIN: see the catalogue. None of them removes a package."""

from __future__ import annotations

import ipaddress
import re

from donjon.audit.controls.min import HELPERS
from donjon.audit.fact import Known, need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile, matches
from donjon.audit.tables import roles
from donjon.harden.change import Change, Command, Edit, Permissions, fix
from donjon.harden.editors import Rewrite, assignments, in_section, lines
from donjon.harden.services import restarted
from donjon.harden.units import switched_off

KEPT = (
    *("ssh*", "network*", "NetworkManager*", "systemd-*", "ifup*", "dhcp*", "wpa_supplicant*", "bond*", "dbus*"),
    *("nftables*", "ip*tables*", "netfilter*", "firewalld*", "ufw*", "shorewall*", "fail2ban*"),
    *("libvirt*", "virt*", "xen*", "xend*", "ovs*", "ovm*", "openvswitch*", "frr*", "bird*", "keepalived*"),
    *("openvpn*", "wg-quick*", "wireguard*", "strongswan*", "ipsec*", "tailscale*", "zerotier*", "teleport*"),
    *("lvm*", "dm-*", "mdmonitor*", "multipath*", "iscsi*", "open-iscsi*", "tgt*", "target*", "nvmf*", "nvmet*"),
    *("nfs*", "rpc-*", "autofs*", "ceph*", "gluster*", "drbd*", "zfs*", "o2cb*", "ocfs2*", "linstor*", "moosefs*"),
    *("corosync*", "pacemaker*", "pcs*", "sbd*", "dlm*", "ha-*", "getty*", "serial-getty*", "donjon*", "cloud-*"),
)
"""Units whose end could cut off the host, its storage, its cluster or its guests: a person decides."""

RESOLVER = {"udp/5355": "LLMNR", "tcp/5355": "LLMNR", "udp/5353": "MulticastDNS"}
"""Where systemd's resolver listens to the neighbourhood, and the setting that does it."""

BRIDGE_RULES = {"/usr/lib/qemu/qemu-bridge-helper": "/etc/qemu/bridge.conf"}
_RED_HATS_RULES = "/etc/qemu-kvm/bridge.conf"

# Which unit a process belongs to: v1 of cgroups has a line for systemd, v2 has one line.
_UNIT = r"""
found='s,^\(0::\|1:name=systemd:\)/system.slice/\(.*/\)*\([^/]*\.service\)$,\3,p'
unit=$(sed -n "$found" "$ROOT/proc/{pid}/cgroup" 2>/dev/null | head -n 1)
"""
_OWNER = (
    _UNIT
    + """\
[ -n "$unit" ] || {{ echo "process {pid} belongs to no service"; exit 1; }}
case $unit in
{kept}) echo "$unit is none that a program may stop"; exit 1 ;;
esac
echo "the service is $unit\""""
)
_OWNER_STATE = (
    _UNIT
    + """\
[ -n "$unit" ] || exit 0
for one in "${{unit%.service}}.socket" "$unit"; do
    enabled=off active=off
    if [ "$(systemctl is-enabled -- "$one" 2>/dev/null)" = enabled ]; then enabled=on; fi
    if systemctl is-active --quiet -- "$one"; then active=on; fi
    echo "$one $enabled $active"
done"""
)
_OWNER_OFF = """\
while read -r unit enabled active; do
    [ "$enabled" = off ] || systemctl disable -- "$unit"
    [ "$active" = off ] || systemctl stop -- "$unit"
done <"$BEFORE\""""
_OWNER_UNDONE = """\
while read -r unit enabled active; do
    [ "$enabled" = off ] || systemctl enable -- "$unit"
    [ "$active" = off ] || systemctl start -- "$unit"
done <"$BEFORE\""""


@fix("MIN-02")
def no_foreign_services(result: Result, host: Host, profile: Profile) -> Change | None:
    """A service that the host does not need neither runs nor starts.

    None for those on which a way to the host, its storage or its guests may hang.
    """
    unit = result.subject
    if not re.fullmatch(r"[\w@.:\\-]+\.(service|socket)", unit) or matches(unit, (*KEPT, *profile.allow.services)):
        return None
    needed = roles().services_of(need(host.platform.kinds))
    return None if matches(unit, needed) else Change(f"{unit} is off", (switched_off(host, unit),))


@fix("MIN-03")
def no_foreign_listeners(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """The services that listen there are off.

    None if only loopback is concerned, if it could not be seen who listens, or if one of them is no service of its own.
    """
    if result.subject in RESOLVER and _is_resolver(result.subject, host):
        return _resolver_off(RESOLVER[result.subject])
    sockets = [one for one in need(host.listeners.all) if f"{one.protocol}/{one.port}" == result.subject]
    local = all(ipaddress.ip_address(one.address).is_loopback for one in sockets)
    if local or any(one.pid <= 1 for one in sockets) or need(host.units.init) != "systemd":
        return None
    pids = sorted({one.pid for one in sockets})
    shown = "/".join(sorted({one.process for one in sockets}))
    kept = " | ".join((*KEPT, *(pattern for pattern in roles().services_of(need(host.platform.kinds)))))
    return Change(
        f"{shown} does not listen on {result.subject}",
        tuple(_owner_off(pid, shown) for pid in pids),
        preview="\n".join(_OWNER.format(pid=pid, kept=kept) for pid in pids),
        note="its whole service is switched off",
    )


def _is_resolver(place: str, host: Host) -> bool:
    sockets = [one for one in need(host.listeners.all) if f"{one.protocol}/{one.port}" == place]
    return bool(sockets) and all(one.process.startswith("systemd-resolve") for one in sockets)


def _resolver_off(setting: str) -> Change:
    edit = Edit("/etc/systemd/resolved.conf", in_section("Resolve", {setting: "no"}), mode=0o644)
    title = f"systemd's resolver does without {setting}"
    return Change(title, (edit,), activate=(restarted("systemd-resolved"),))


def _owner_off(pid: int, shown: str) -> Command:
    title = f"switch off the service of {shown}, process {pid}"
    return Command(title, _OWNER_OFF, _OWNER_UNDONE, _OWNER_STATE.format(pid=pid))


@fix("MIN-06")
def no_legacy_service(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """A service that talks in the clear, or to anybody, is off.

    None for SNMP: what watches the host would be blind; give it a community of its own, or SNMP 3.
    """
    patterns = roles().legacy.get(result.subject, ())
    units = [one for one in need(host.units.all).values() if (one.starts or one.active) and matches(one.name, patterns)]
    if not units:
        return None
    # A socket first: it would start its service again.
    names = sorted((one.name for one in units), key=lambda name: not name.endswith(".socket"))
    return Change(f"{result.subject} is off", (switched_off(host, *names),))


@fix("MIN-08")
def bridge_helper_is_restricted(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Only members of QEMU's group run the helper, and it joins only bridges that guests use."""
    helper = result.subject
    if helper not in HELPERS:
        return None
    group = next((name for name in ("kvm", "qemu") if name in need(host.accounts.groups)), "root")
    wants: list[Permissions | Edit] = [Permissions(helper, at_most=0o4750, owner=f"root:{group}")]
    if "allow all" in need(host.footprint.bridge_rules, absent=()):
        wants.append(Edit(BRIDGE_RULES.get(helper, _RED_HATS_RULES), _named(_bridges(host))))
    return Change(f"{helper} obeys members of {group} only, for bridges that are named", tuple(wants))


def _bridges(host: Host) -> list[str]:
    """Those of VMs that are defined here."""
    every = host.domains.all.value if isinstance(host.domains.all, Known) else ()
    names = {nic.source for vm in every for nic in vm.nics if nic.kind == "bridge"}
    return sorted(name for name in names if re.fullmatch(r"[\w.-]{1,15}", name))


def _named(bridges: list[str]) -> Rewrite:
    def rewrite(text: str) -> str:
        rest = re.sub(r"(?m)^[ \t]*allow[ \t]+all\b.*\n?", "", text)
        return rest if rest == text else lines(*(f"allow {name}" for name in bridges))(rest)

    return rewrite


@fix("MIN-11")
def dom0_is_fixed(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """The memory of a dom0 that has its own stays its; None for how much it needs, which is the admin's to say."""
    memory = next((word for word in need(host.updates.xen).command_line if word.startswith("dom0_mem=")), "")
    if result.subject != "memory" or "max:" not in memory:
        return None
    edit = Edit("/etc/xen/xl.conf", assignments({"autoballoon": '"off"'}, separator="="))
    return Change("xl takes no memory from dom0", (edit,), note="in force for guests that are started from now on")
