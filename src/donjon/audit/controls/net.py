# SPDX-License-Identifier: Apache-2.0
"""Rules of the area NET: what the packet filter lets in, whether it stays, and where services and guests meet it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_interface

from msgspec import Struct

from donjon.audit.control import Context, control
from donjon.audit.controls import net_bindings, net_migration  # noqa: F401 -- they register their rules
from donjon.audit.controls.net_services import Service, service_of
from donjon.audit.controls.reach import (
    ANYWHERE,
    Reached,
    Surroundings,
    allowed_networks,
    is_allowed,
    is_local,
    reached_by,
    surroundings,
)
from donjon.audit.fact import Absent, Known, Unknown, need
from donjon.audit.facts.firewall import differences, has_own_rules
from donjon.audit.facts.host import Host
from donjon.audit.facts.listeners import Listener
from donjon.audit.facts.ruleset import Packet, Ruleset, base_chains, simulate
from donjon.audit.facts.units import Unit
from donjon.audit.verdict import Verdict, failed, not_applicable, passed, unknown

_UNUSED_PORTS = (3, 6553, 61003)
"""Nobody serves these; a rule that lets one in lets in whatever comes."""


@control("NET-01")
def input_is_denied_by_default(host: Host, _: Context) -> Iterable[Verdict]:
    """What no rule names stays out, in both families."""
    links = need(host.network.links)
    ruleset = need(host.firewall.running, absent=Ruleset())
    addresses = [
        (":" in text, link.name)
        for link in links.values()
        for text in link.addresses
        if not (ip_interface(text).ip.is_loopback or ip_interface(text).ip.is_link_local)
    ]
    if not addresses:
        yield not_applicable("the host has no address that others could reach")
    for family, six in (("IPv4", False), ("IPv6", True)):
        if interfaces := sorted({name for is_six, name in addresses if is_six is six}):
            yield _default(ruleset, family, six, interfaces)


def _default(ruleset: Ruleset, family: str, six: bool, interfaces: list[str]) -> Verdict:
    fates = [
        (simulate(ruleset, Packet(ANYWHERE[six], port, interface, protocol)), f"{protocol}/{port} on {interface}")
        for interface in interfaces
        for protocol in ("tcp", "udp")
        for port in _UNUSED_PORTS
    ]
    chains = [f"{one.shown}: {one.policy}" for one in base_chains(ruleset, "ip6" if six else "ip", ("input",))]
    for fate, what in fates:
        if fate.answer == "accepted":
            say = f"{family} packets that no rule names are let in through {what.rpartition(' ')[2]}"
            return failed(say, family, tried=what, by=fate.by, chains=chains or "no chain at the input hook")
    for fate, what in fates:
        if fate.answer == "unknown":
            return unknown(f"whether {what} is let in over {family} depends on {fate.by}", family)
    return passed(f"{family} packets that no rule names are dropped", family, by=fates[0][0].by, chains=chains)


@control("NET-02")
def services_are_reached_from_where_they_may(host: Host, context: Context) -> Iterable[Verdict]:
    """Whoever has no business with a service does not get to it."""
    around = surroundings(host, context)
    found: dict[tuple[int, Service], list[Listener]] = {}
    for listener in need(host.listeners.all):
        service = service_of(listener, need(host.platform.kinds))
        if service and not is_local(listener.address):
            found.setdefault((listener.port, service), []).append(listener)
    if not found:
        yield not_applicable("no service of a known kind listens beyond loopback")
    for (port, service), listeners in sorted(found.items(), key=lambda one: one[0][0]):
        yield _from_where(port, service, listeners, around, context)


def _from_where(
    port: int, service: Service, listeners: list[Listener], around: Surroundings, context: Context
) -> Verdict:
    allowed = allowed_networks(context, service.allowed)
    reached = [
        one for listener in listeners for one in reached_by(listener, around) if not is_allowed(one.origin, allowed)
    ]
    subject = f"tcp/{port}"
    may = ", ".join(service.allowed) or "nobody"
    for one in reached:
        if one.answer == "accepted":
            say = f"{service.name} on port {port} is reached from {_who(one)}; allowed: {may}"
            return failed(say, subject, source=one.origin.address, interface=one.origin.interface, by=one.by)
    if reached:
        return unknown(f"whether {service.name} on port {port} is reached depends on {reached[0].by}", subject)
    return passed(f"{service.name} on port {port} is reached from {may} alone", subject, allowed=allowed or "nobody")


def _who(one: Reached) -> str:
    who = {"anywhere": "anywhere", "guests": "guests"}.get(one.origin.who, f"the {one.origin.who} network")
    return f"{who} through {one.origin.interface}"


class _Keeper(Struct, frozen=True):
    """Who loads rules at boot, and what it has stored."""

    unit: str
    stored: str


_KEEPERS = (
    _Keeper("firewalld.service", "firewalld"),
    _Keeper("nftables.service", "stored_nft"),
    _Keeper("netfilter-persistent.service", "stored_iptables"),
    _Keeper("iptables.service", "stored_iptables"),
)


@control("NET-03")
def firewall_persists(host: Host, _: Context) -> Iterable[Verdict]:
    """What filters now filters after the next boot."""
    ruleset = need(host.firewall.running, absent=Ruleset())
    units = need(host.units.all, absent={})
    firewalld = isinstance(host.firewall.firewalld, Known)
    if not has_own_rules(ruleset) and not firewalld:
        need(host.firewall.firewalld, absent=())
        yield not_applicable("there are no rules of the operator's own to keep")
        return
    starting = [keeper for keeper in _KEEPERS if keeper.unit in units and units[keeper.unit].starts]
    if not starting:
        known = [f"{unit.name} {unit.enabled}" for unit in _keepers(units)]
        yield failed("nobody loads the firewall's rules at the next boot", units=known or "none is installed")
        return
    yield from _compared(host, ruleset, starting[0])


def _keepers(units: dict[str, Unit]) -> Iterator[Unit]:
    return (units[keeper.unit] for keeper in _KEEPERS if keeper.unit in units)


def _compared(host: Host, ruleset: Ruleset, keeper: _Keeper) -> Iterator[Verdict]:
    if keeper.stored == "firewalld":
        differ = need(host.firewall.firewalld)
    else:
        stored = host.firewall.stored_nft if keeper.stored == "stored_nft" else host.firewall.stored_iptables
        if isinstance(stored, Absent):
            yield failed(f"{keeper.unit} has nothing stored to load at the next boot", unit=keeper.unit)
            return
        differ = differences(ruleset, need(stored))
    if differ:
        say = f"the rules that run are not those {keeper.unit} loads at boot"
        yield failed(say, unit=keeper.unit, differing=differ)
    else:
        yield passed(f"{keeper.unit} loads at boot what runs now", unit=keeper.unit)


@control("NET-09")
def forwarding_has_a_reason(host: Host, _: Context) -> Iterable[Verdict]:
    """A host is no router between its networks unless a guest network needs one, and then only for that."""
    four, six = need(host.network.forwarding)
    on = ["IPv4"] * four + ["IPv6"] * six
    if not on:
        yield passed("the host forwards nothing")
        return
    if isinstance(host.domains.networks, Unknown):
        yield unknown(host.domains.networks.reason)
        return
    networks = need(host.domains.networks, absent={}).values()
    consumers = [f"{one.name} ({one.forward})" for one in networks if one.forward in {"nat", "route", "open"}]
    if not consumers:
        yield failed(f"{' and '.join(on)} forwarding is on, and no guest network needs it", forwarding=on)
        return
    links = need(host.network.links)
    ruleset = need(host.firewall.running, absent=Ruleset())
    outer = [link.name for link in links.values() if link.kind != "loopback" and link.addresses]
    for family in on:
        yield _forwards(ruleset, family, outer or list(links), consumers)


def _forwards(ruleset: Ruleset, family: str, interfaces: list[str], consumers: list[str]) -> Verdict:
    """A packet between networks that no rule knows, from each of the host's interfaces."""
    source = ANYWHERE[family == "IPv6"]
    fates = [simulate(ruleset, Packet(source, 6553, name, output="elsewhere0")) for name in interfaces]
    for answer in ("accepted", "unknown"):
        for fate, name in zip(fates, interfaces, strict=True):
            if fate.answer == "accepted" == answer:
                say = f"{family} packets are forwarded from {name} to anywhere"
                return failed(say, family, consumers=consumers, by=fate.by)
            if fate.answer == answer:
                return unknown(f"whether {family} packets from {name} are forwarded depends on {fate.by}", family)
    return passed(f"{family} is forwarded for guest networks alone", family, consumers=consumers)
