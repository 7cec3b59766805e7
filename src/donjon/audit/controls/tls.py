# SPDX-License-Identifier: Apache-2.0
"""Rules of the area TLS about libvirt and certificates; the rest of the area is in tls_streams and tls_agents."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

from donjon.audit.control import Context, control
from donjon.audit.controls import tls_agents, tls_streams  # noqa: F401 -- they register their rules
from donjon.audit.controls.net_migration import has_peers
from donjon.audit.controls.vms import worst
from donjon.audit.fact import Fact, need
from donjon.audit.facts.certificates import Certificate
from donjon.audit.facts.host import Host
from donjon.audit.facts.libvirt import Settings
from donjon.audit.facts.network import host_addresses
from donjon.audit.verdict import Severity, Verdict, each, failed, not_applicable, passed

_TCP_PORT, _TLS_PORT = 16509, 16514
_TCP_SOCKETS = ("libvirtd-tcp.socket", "virtproxyd-tcp.socket")
_TLS_SOCKETS = ("libvirtd-tls.socket", "virtproxyd-tls.socket")
_NETWORK_DAEMONS = ("libvirtd", "virtproxyd")
_LEAST_SSF = 112
"""Strength of SASL's encryption that libvirt asks for by itself: that of 3DES."""

_LEAST_RSA = 2048
_LEAST_EC = 224
_WEAK_HASHES = {"md5", "sha1"}
_LAST_DAYS = 14


@control("TLS-01")
def libvirt_asks_who_comes_over_tcp(host: Host, _: Context) -> Iterable[Verdict]:
    """Whoever may talk to libvirt over TCP without proof is root here."""
    evidence = _open_sockets(host, "tcp_port", _TCP_PORT, _TCP_SOCKETS)
    if not evidence:
        yield passed("libvirt does not listen on TCP without TLS")
        return
    yield worst((_over_tcp(settings, evidence) for settings in _network_settings(host)), "")


def _over_tcp(settings: Settings, evidence: list[str]) -> Verdict:
    method = _text(settings, "auth_tcp", "sasl")
    strength = settings.get("tcp_min_ssf", _LEAST_SSF)
    if method == "none":
        say = "libvirt listens on TCP and asks nobody who they are"
        return failed(say, severity=Severity.CRITICAL, sockets=evidence, auth_tcp=method)
    if method != "sasl" or not isinstance(strength, int) or strength < _LEAST_SSF:
        say = "libvirt listens on TCP without encryption"
        return failed(say, severity=Severity.HIGH, sockets=evidence, auth_tcp=method, tcp_min_ssf=strength)
    return passed("libvirt's TCP socket asks for SASL with encryption", sockets=evidence, tcp_min_ssf=strength)


@control("TLS-02")
def libvirt_checks_certificates_of_clients(host: Host, _: Context) -> Iterable[Verdict]:
    """A client without a certificate that is known here does not get in."""
    evidence = _open_sockets(host, "tls_port", _TLS_PORT, _TLS_SOCKETS)
    if not evidence:
        yield not_applicable("libvirt does not listen on TLS")
        return
    yield worst((_over_tls(settings, evidence) for settings in _network_settings(host)), "")


def _over_tls(settings: Settings, evidence: list[str]) -> Verdict:
    if settings.get("tls_no_verify_certificate", 0) != 0:
        return failed("libvirt does not verify certificates of clients", sockets=evidence, setting="no_verify")
    if not settings.get("tls_allowed_dn_list") and _text(settings, "auth_tls", "none") == "none":
        say = "any certificate its CA signs makes its owner root here: there is no list of clients, and no password"
        return failed(say, lower=1, sockets=evidence, tls_allowed_dn_list="not set", auth_tls="none")
    return passed("libvirt lets in clients it knows", sockets=evidence)


def _open_sockets(host: Host, setting: str, port: int, names: tuple[str, ...]) -> list[str]:
    """What listens on a port of libvirt's now, or will as soon as systemd starts it; a setting may move the port."""
    ports = {str(port), *(str(settings.get(setting, port)) for settings in _network_settings(host))}
    listening = [f"{one.address}:{one.port}" for one in need(host.listeners.all) if str(one.port) in ports]
    units = need(host.units.all, absent={})
    return listening + [name for name in names if name in units and (units[name].starts or units[name].active)]


def _network_settings(host: Host) -> list[Settings]:
    """Of each daemon that serves the network; of all that have settings, if no unit of theirs is in use."""
    daemons = need(host.libvirt.daemons, absent={})
    used = [unit.name for unit in need(host.units.all, absent={}).values() if unit.starts or unit.active]
    serving = [name for name in _NETWORK_DAEMONS if any(unit.startswith((f"{name}.", f"{name}-")) for unit in used)]
    found = [name for name in serving or _NETWORK_DAEMONS if name in daemons]
    return [daemons[name] for name in found] or [{}]


def _text(settings: Settings, key: str, default: str) -> str:
    return str(settings.get(key, default)).lower()


@control("TLS-03")
def certificates_hold(host: Host, context: Context) -> Iterable[Verdict]:
    """A certificate that runs out stops management, a weak or foreign one is no proof."""
    addresses = tuple(str(one) for one in host_addresses(need(host.network.links)))
    yield from each(
        sorted(need(host.certificates.all).items()),
        lambda pair: _certificate(*pair, host.platform.name, addresses, context),
        subject=lambda pair: pair[0],
        none="there is no certificate of the management plane",
    )


def _certificate(
    path: str, fact: Fact[Certificate], name: str, addresses: tuple[str, ...], context: Context
) -> Verdict:
    one = need(fact)
    evidence = f"{one.subject}; {one.key} {one.bits}; {one.signature}; {one.begins} to {one.ends}"
    wrong = _weakness(one) or _dates(one, context.today) or _identity(path, one, name, addresses)
    if wrong:
        return failed(f"{path} {wrong}", certificate=evidence, names=one.names, sha256=one.digest)
    left = (one.ends - context.today).days
    if left < context.profile.ages.certificate_left:
        return failed(f"{path} runs out in {left} days", lower=1, certificate=evidence, sha256=one.digest)
    return passed(f"{path} is valid until {one.ends}", certificate=evidence, sha256=one.digest)


def _weakness(one: Certificate) -> str:
    if one.bits < {"RSA": _LEAST_RSA, "EC": _LEAST_EC}.get(one.key, 0):
        return f"has a weak key: {one.key} with {one.bits} bits"
    return f"is signed with {one.signature}" if one.signature in _WEAK_HASHES else ""


def _dates(one: Certificate, today: date) -> str:
    if one.begins > today:
        return f"is valid from {one.begins} on only"
    if one.ends < today:
        return f"ran out on {one.ends}"
    return f"runs out on {one.ends}" if one.ends - today < timedelta(days=_LAST_DAYS) else ""


def _identity(path: str, one: Certificate, name: str, addresses: tuple[str, ...]) -> str:
    """A CA's own names no host, a client's none, either."""
    file = path.rpartition("/")[2].partition("#")[0]
    if file.startswith(("ca", "client")) or "#" in path:
        return ""
    if one.authority and not one.self_signed:
        return "is a server's and may sign others"
    return "" if one.is_for(name, addresses) else f"is not for {name}: {', '.join(one.names) or 'it names no host'}"


@control("TLS-04")
def migration_is_encrypted(host: Host, context: Context) -> Iterable[Verdict]:
    """Memory of guests does not leave the host in the clear."""
    if not has_peers(host, context):
        yield not_applicable("no other host is known to which VMs could move")
        return
    qemu = need(host.libvirt.qemu, absent={})
    verify = qemu.get("migrate_tls_x509_verify", qemu.get("default_tls_x509_verify", 1))
    if qemu.get("migrate_tls_force", 0) != 1:
        yield failed(
            "live migration may go in the clear: TLS is not forced",
            migrate_tls_force=qemu.get("migrate_tls_force", "not set"),
        )
    elif verify != 1:
        yield failed("live migration does not verify the other host's certificate", migrate_tls_x509_verify=verify)
    else:
        yield passed("live migration is forced to use TLS", migrate_tls_force=1)
