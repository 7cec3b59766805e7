# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area TLS: encryption is switched on where the certificates for it are there, and nowhere else.

Sources: libvirt, src/qemu/qemu.conf.in (*_tls_x509_cert_dir, and default_tls_x509_cert_dir where its own folder is not
there) and src/remote/libvirtd.conf.in; systemd.socket(5); ovs-vsctl(8); Xen 4.4.4, tools/examples/xend-config.sxp.
"""

from __future__ import annotations

import re

from donjon.audit.fact import Known, Unseen, need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Command, Edit, fix, words
from donjon.harden.editors import assignments, expressions
from donjon.harden.services import libvirt_restarted, restarted

QEMU_CONF = "/etc/libvirt/qemu.conf"
XEND_CONF = "/etc/xen/xend-config.sxp"
_SERVER = ("ca-cert.pem", "server-cert.pem")
_BOTH_ENDS = (*_SERVER, "client-cert.pem")
_EMULATORS = ("qemu-system", "qemu-kvm", "kvm")
_CLOSED = re.compile(r"p?ssl:.*|p?unix:.*|tcp:(127\.[0-9.]+|\[::1\]):[0-9]+|ptcp:[0-9]*:(127\.[0-9.]+|\[::1\])")
_SOCKET_OFF = "systemctl disable --now -- {unit}"
_SOCKET_STATE = """\
systemctl is-enabled -- {unit} || :
systemctl is-active -- {unit} || :"""
# A socket does not start while its service runs, and libvirt's other sockets start that again at any moment.
_SOCKET_ON = """\
if [ "$(sed -n 1p "$BEFORE")" = enabled ]; then systemctl enable -- {unit}; fi
if [ "$(sed -n 2p "$BEFORE")" = active ]; then
    for _ in 1 2 3 4 5; do
        if systemctl is-active --quiet -- {unit}; then break; fi
        systemctl stop -- {service}
        systemctl start -- {unit} || sleep 1
    done
    systemctl is-active --quiet -- {unit}
    systemctl start -- {service}
fi"""
_GET_MANAGERS = "ovs-vsctl --timeout=10 get-manager"
_PUT_BACK_MANAGERS = """\
set --
while read -r target; do set -- "$@" "$target"; done <"$BEFORE"
if [ $# -gt 0 ]; then ovs-vsctl --timeout=10 -- set-manager "$@"; else ovs-vsctl --timeout=10 del-manager; fi"""


@fix("TLS-01")
def no_clear_libvirt(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """No libvirt listens on TCP without TLS; clients come through ssh."""
    units = need(host.units.all, absent={})
    names = [f"{daemon}-tcp.socket" for daemon in ("libvirtd", "virtproxyd")]
    opened = [name for name in names if name in units and (units[name].starts or units[name].active)]
    daemon, settings = _network_daemon(host)
    wants: list[Command | Edit] = [_socket_off(name) for name in opened]
    if settings.get("listen_tcp", 0) == 1 or not opened:
        wants.append(Edit(f"/etc/libvirt/{daemon}.conf", assignments({"listen_tcp": "0"})))
    return Change(
        "libvirt does not listen on TCP without TLS",
        tuple(wants),
        activate=(libvirt_restarted(),),
        note="clients that used qemu+tcp:// must use qemu+ssh://",
    )


def _socket_off(unit: str) -> Command:
    names = {"unit": unit, "service": unit.replace("-tcp.socket", ".service")}
    return Command(
        f"switch {unit} off", _SOCKET_OFF.format(**names), _SOCKET_ON.format(**names), _SOCKET_STATE.format(**names)
    )


@fix("TLS-02")
def clients_are_verified(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Certificates of clients are verified; who these are, only a person can list."""
    daemon, settings = _network_daemon(host)
    if settings.get("tls_no_verify_certificate", 0) == 0:
        return None
    authority = str(settings.get("ca_file", "/etc/pki/CA/cacert.pem"))
    _there(host, authority)
    return Change(
        f"{daemon} lets in nobody without a certificate of its authority",
        (Edit(f"/etc/libvirt/{daemon}.conf", assignments({"tls_no_verify_certificate": "0"})),),
        activate=(libvirt_restarted(),),
        note=f"clients need certificates signed by {authority}",
    )


def _network_daemon(host: Host) -> tuple[str, dict[str, str | int | tuple[str, ...]]]:
    """The daemon that serves the network, and its settings; virtproxyd where there are both."""
    daemons = need(host.libvirt.daemons, absent={})
    name = next((one for one in ("virtproxyd", "libvirtd") if one in daemons), "libvirtd")
    return name, daemons.get(name, {})


@fix("TLS-04")
def migration_needs_tls(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Live migration is refused unless it is encrypted and both hosts prove who they are."""
    return _encrypted_migration(host, "live migration uses TLS, or does not start")


@fix("TLS-05")
def copies_need_tls(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Disks that a VM's own emulator copies to another host go by TLS; other servers have settings of their own."""
    place, _, _ = result.subject.partition(" on ")
    serving = [one for one in need(host.listeners.all) if f"{one.protocol}/{one.port}" == place]
    if not any(one.process.startswith(_EMULATORS) for one in serving):
        return None
    return _encrypted_migration(host, "disks are copied to other hosts over TLS", "a copy that runs now stays clear")


def _encrypted_migration(host: Host, title: str, note: str = "") -> Change:
    _certificates(host, "migrate", _BOTH_ENDS)
    values = {"migrate_tls_force": "1", "migrate_tls_x509_verify": "1"}
    return Change(
        title,
        (Edit(QEMU_CONF, assignments(values)),),
        activate=(libvirt_restarted(),),
        note="; ".join(filter(None, (note, "hosts without certificates can no longer send VMs here, nor get any"))),
    )


@fix("TLS-08")
def consoles_need_tls(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Consoles are shown over TLS alone, VNC's to clients with a certificate; SPICE's need a password already."""
    kind = result.subject.rpartition(" ")[2]
    settings = {"vnc": {"vnc_tls": "1", "vnc_tls_x509_verify": "1"}, "spice": {"spice_tls": "1"}}
    if kind not in settings or not _asks_for_password(result, host, kind):
        return None
    _certificates(host, kind, _SERVER)
    return Change(
        f"{kind.upper()} consoles are shown over TLS alone",
        (Edit(QEMU_CONF, assignments(settings[kind])),),
        activate=(libvirt_restarted(),),
        note="of each VM in force when it is started the next time; viewers need certificates",
    )


def _asks_for_password(result: Result, host: Host, kind: str) -> bool:
    """VNC's clients show a certificate; SPICE verifies none."""
    if kind == "vnc" or need(host.libvirt.qemu, absent={}).get("spice_sasl", 0) == 1:
        return True
    vms = [vm for vm in need(host.domains.all) if vm.uuid == result.subject.partition(" ")[0]]
    consoles = [console for vm in vms for console in vm.consoles if console.kind == kind]
    return all(console.has_password and not console.insecure for console in consoles)


def _certificates(host: Host, purpose: str, names: tuple[str, ...]) -> None:
    """See that the certificates for a purpose are there, where libvirt looks for them. Raises Unseen."""
    settings = need(host.libvirt.qemu, absent={})
    folder = {"migrate": "libvirt-migrate"}.get(purpose, f"libvirt-{purpose}")
    own = str(settings.get(f"{purpose}_tls_x509_cert_dir", f"/etc/pki/{folder}"))
    if not any(path.startswith(f"{own}/") for path in need(host.certificates.all)):
        own = str(settings.get("default_tls_x509_cert_dir", "/etc/pki/qemu"))
    for name in names:
        _there(host, f"{own}/{name}")


def _there(host: Host, path: str) -> None:
    """See that a certificate is there and holds. Raises Unseen."""
    certificate = need(host.certificates.all).get(path)
    if not isinstance(certificate, Known):
        raise Unseen(f"there is no certificate {path}")
    if certificate.value.ends <= need(host.platform.taken).date():
        raise Unseen(f"the certificate {path} has run out")


@fix("TLS-06")
def relocation_needs_tls(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """VMs come to xend and leave it over TLS alone."""
    xend = need(host.agents.xend)
    key, certificate = (xend.text(f"xend-relocation-server-ssl-{what}-file") for what in ("key", "cert"))
    if not key or not certificate:
        raise Unseen("xend has no key and certificate for relocation: make them on every host of the pool first")
    _there(host, certificate)
    values = {"xend-relocation-ssl-server": "yes", "xend-relocation-ssl": "yes", "xend-relocation-server": "no"}
    return Change(
        "xend relocates VMs over TLS alone",
        (Edit(XEND_CONF, expressions(values)),),
        activate=(restarted("xend"),),
        note="until all hosts of the pool are changed, VMs cannot move between those that are and those that are not",
    )


@fix("TLS-10")
def switch_obeys_this_host(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Open vSwitch obeys managers over TLS or on this host; a controller steers guests' packets, so it stays."""
    steering = [one for one in need(host.agents.switch_controllers, absent=()) if not _CLOSED.fullmatch(one)]
    if steering:
        raise Unseen(f"guests' packets are steered by {', '.join(steering)}: give it TLS first")
    managers = need(host.agents.switch_managers)
    kept = [one for one in managers if _CLOSED.fullmatch(one)]
    if len(kept) == len(managers):
        raise Unseen("the database of Open vSwitch is opened by an argument of ovsdb-server")
    do = words("ovs-vsctl", "--timeout=10", "--", *(["set-manager", *kept] if kept else ["del-manager"]))
    return Change(
        "Open vSwitch takes orders over TLS or from this host alone",
        (Command("managers of Open vSwitch", do, _PUT_BACK_MANAGERS, _GET_MANAGERS),),
    )
