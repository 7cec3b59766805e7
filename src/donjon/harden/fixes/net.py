# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area NET: who gets to the host, and where its services and guests meet the network.

Sources: RFC 4890, section 4.4 (ICMPv6 that a host needs); libvirt, src/qemu/qemu.conf.in (migration_address).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface

from donjon.audit.controls.net_services import SERVICES, service_of
from donjon.audit.controls.reach import is_local
from donjon.audit.controls.segments import uplinks_of
from donjon.audit.fact import Unseen, need
from donjon.audit.facts.host import Host
from donjon.audit.facts.listeners import Listener
from donjon.audit.judge import Result
from donjon.audit.profile import Profile, matches
from donjon.harden.change import Chain, Change, Edit, fix
from donjon.harden.editors import assignments, expressions
from donjon.harden.fixes.sources import accepted, only, served_to_guests, through, told
from donjon.harden.services import libvirt_restarted, restarted

_NEEDED = (
    "icmp type echo-request accept",
    "icmpv6 type { echo-request, mld-listener-query, mld-listener-report, mld2-listener-report } accept",
    "ip protocol igmp accept",
    "udp sport 67 udp dport 68 accept",
    "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept",
)
"""Ping, groups of multicast, and answers to the host's own DHCP client, which connection tracking does not know."""

_TUNNELS = {"vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "ipip", "sit", "wireguard", "bareudp", "vti"}
_CLUSTERS = ("corosync", "pacemaker*", "glusterfs*", "ceph-*", "keepalived", "drbd*", "etcd", "o2cb*", "sanlock*")
_PLACE = re.compile(r"(tcp|udp)/([0-9]{1,5})")
_SHOWN = 8


@fix("NET-01")
def denied_by_default(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """What no rule names stays out; who is told in the profile, and guests of libvirt's networks, get what they had."""
    managers = told(profile, ("management",), "ssh")
    links = need(host.network.links)
    if tunnels := [link.name for link in links.values() if link.kind in _TUNNELS]:
        raise Unseen(f"tunnels end here, and what comes out of them cannot be told: {', '.join(tunnels)}")
    listeners = [one for one in need(host.listeners.all) if not is_local(one.address)]
    approved = sorted({*_named(profile), *(_place(one) for one in listeners if _is_approved(one, profile))})
    rules = [*_NEEDED, *served_to_guests(host), *_open(approved), *_known(listeners, host, profile)]
    return Change(
        "packets that no rule names are dropped",
        (Chain("NET-01", tuple(dict.fromkeys(rules)), policy="drop", admins=tuple(map(str, managers))),),
        note=_shut_off(listeners, host, profile),
    )


def _named(profile: Profile) -> Iterator[str]:
    return (place for place in profile.allow.listeners if _PLACE.fullmatch(place))


def _place(one: Listener) -> str:
    return f"{one.protocol}/{one.port}"


def _is_approved(one: Listener, profile: Profile) -> bool:
    return matches(_place(one), profile.allow.listeners)


def _open(places: list[str]) -> Iterator[str]:
    for place in places:
        protocol, _, port = place.partition("/")
        yield f"{protocol} dport {port} accept"


def _known(listeners: list[Listener], host: Host, profile: Profile) -> Iterator[str]:
    """Services by their roles; live migration, too, which listens while it is needed.

    Raises:
        Unseen: a service has clients, and the profile does not tell them.
    """
    kinds = need(host.platform.kinds)
    for one in listeners:
        service = service_of(one, kinds)
        if service and service.allowed and not _is_approved(one, profile):
            yield from accepted(told(profile, service.allowed, service.name), f"tcp dport {one.port}")
        elif service is None and matches(one.process, _CLUSTERS) and not _is_approved(one, profile):
            raise Unseen(f"{one.process} of a cluster listens on {_place(one)}, and the profile does not allow it")
    networks = profile.networks
    if "K" in kinds and (networks.migration or networks.peers):
        (migration,) = (one for one in SERVICES if one.name == "live migration")
        packets = f"tcp dport {migration.first}-{migration.last}"
        yield from accepted(told(profile, migration.allowed, migration.name), packets)


def _shut_off(listeners: list[Listener], host: Host, profile: Profile) -> str:
    """What is not reached any more, for the operator to look at."""
    kinds = need(host.platform.kinds)
    lost = {
        f"{_place(one)} ({one.process or 'unknown'})"
        for one in listeners
        if not _is_approved(one, profile) and not getattr(service_of(one, kinds), "allowed", ())
    }
    shown = ", ".join(sorted(lost)[:_SHOWN]) + (f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else "")
    return f"not reached from outside any more, unless allow.listeners names it: {shown}" if lost else ""


@fix("NET-02")
def reached_from_where_it_may(result: Result, host: Host, profile: Profile) -> Change | None:
    """A service is reached from the networks of its role alone."""
    return _guarded_port("NET-02", result.subject, host, profile)


@fix("NET-04")
def management_reached_from_its_network(result: Result, host: Host, profile: Profile) -> Change | None:
    """What listens on all addresses is reached from its own network; one single wrong address is the service's own."""
    place, _, address = result.subject.partition(" on ")
    if not address or not ip_address(address).is_unspecified:
        return None
    return _guarded_port("NET-04", place, host, profile)


def _guarded_port(control: str, place: str, host: Host, profile: Profile) -> Change | None:
    listener = _listener(place, host)
    service = service_of(listener, need(host.platform.kinds)) if listener else None
    if listener is None or service is None:
        return None
    packets = f"tcp dport {listener.port}"
    rules = only(told(profile, service.allowed, service.name), packets) if service.allowed else [f"{packets} drop"]
    admins = tuple(map(str, told(profile, ("management",), "ssh"))) if service.name == "ssh" else ()
    return Change(
        f"{service.name} on port {listener.port} is reached from {' and '.join(service.allowed) or 'this host'} alone",
        (Chain(f"{control} {place}", tuple(rules), admins=admins),),
        note="connections that are open stay" if service.allowed else "reach it through ssh",
    )


def _listener(place: str, host: Host) -> Listener | None:
    return next((one for one in need(host.listeners.all) if _place(one) == place and not is_local(one.address)), None)


@fix("NET-05")
def guests_reach_nothing(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Guests on a bridge of their own get addresses and names from the host, and nothing else."""
    if "services" not in result.evidence:
        return None
    bridge = result.subject
    if uplinks_of(need(host.network.links), bridge):
        raise Unseen(f"the host itself is reached through {bridge}: give it an address on another interface first")
    here = f"{through(bridge)} "
    served = [rule for rule in served_to_guests(host) if rule.startswith(here)]
    rules = (*served, f"{here}meta l4proto {{ icmp, ipv6-icmp, igmp }} accept", f"{here}drop")
    return Change(
        f"guests on {bridge} reach no service of the host but what gives them addresses and names",
        (Chain(f"NET-05 {bridge}", rules),),
    )


@fix("NET-06")
def migration_network(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Live migration comes in at the host's address in the migration network; the other side is told so."""
    address = _own_address(host, profile)
    values = {"migration_address": f'"{address}"', "migration_host": f'"{address}"'}
    return Change(
        f"live migration comes in at {address} alone",
        (Edit("/etc/libvirt/qemu.conf", assignments(values)),),
        activate=(libvirt_restarted(),),
        note="where TLS is used, this host's certificate must name that address",
    )


@fix("NET-07")
def relocation_network(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """VMs come to xend at the host's address in the migration network."""
    need(host.agents.xend)
    address = _own_address(host, profile)
    return Change(
        f"xend's relocation server listens on {address} alone",
        (Edit("/etc/xen/xend-config.sxp", expressions({"xend-relocation-address": f"'{address}'"})),),
        activate=(restarted("xend"),),
    )


def _own_address(host: Host, profile: Profile) -> str:
    """The one address of the host in the migration network."""
    networks = profile.networks.of("migration")
    if not networks:
        raise Unseen("the profile names no migration network")
    own = [ip_interface(text).ip for link in need(host.network.links).values() for text in link.addresses]
    found = [one for one in own for network in networks if one.version == network.version and one in network]
    if len(found) != 1:
        raise Unseen(f"the host has {len(found)} addresses in the migration network, not one")
    return str(found[0])


@fix("NET-09")
def nothing_forwarded(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """The host forwards nothing between networks; what stays on one bridge is no forwarding, but may come by here.

    Source: Linux, Documentation/networking/ip-sysctl.rst, bridge-nf-call-iptables.
    """
    bridges = [link.name for link in need(host.network.links).values() if link.kind == "bridge"]
    within = tuple(f'{through(name)} oifname "{name}" accept' for name in bridges)
    return Change(
        "the host forwards no packets",
        (Chain("NET-09", within, hook="forward", policy="drop"),),
        note="guests on routed or NAT networks lose their connection to the outside",
    )
