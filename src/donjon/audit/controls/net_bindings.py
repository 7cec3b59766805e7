# SPDX-License-Identifier: Apache-2.0
"""Rules of the area NET about where services listen: on the management network, and not where guests are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_interface

from donjon.audit.control import Context, control
from donjon.audit.controls.net_services import Service, service_of
from donjon.audit.controls.reach import (
    Surroundings,
    allowed_networks,
    is_allowed,
    is_local,
    neighbour,
    reached_by,
    surroundings,
)
from donjon.audit.fact import need
from donjon.audit.facts.host import Host
from donjon.audit.facts.listeners import Listener
from donjon.audit.facts.network import Link, guest_bridges
from donjon.audit.facts.ruleset import Packet, simulate
from donjon.audit.profile import Network
from donjon.audit.verdict import Verdict, each, failed, not_applicable, passed, unknown

_DHCP_AND_DNS = {("udp", 53), ("tcp", 53), ("udp", 67), ("udp", 547)}


@control("NET-04")
def management_binds_to_its_network(host: Host, context: Context) -> Iterable[Verdict]:
    """What gives control of the host listens where administrators are, not everywhere."""
    kinds = need(host.platform.kinds)
    served = [(one, service_of(one, kinds)) for one in need(host.listeners.all) if not is_local(one.address)]
    managing = [(one, service) for one, service in served if service and service.management]
    around = surroundings(host, context)
    yield from each(
        managing,
        lambda pair: _binding(*pair, around, context),
        subject=lambda pair: f"tcp/{pair[0].port} on {pair[0].address}",
        none="no management service listens beyond loopback",
    )


def _binding(listener: Listener, service: Service, around: Surroundings, context: Context) -> Verdict:
    if not ip_address(listener.address).is_unspecified:
        return _single_address(listener, service, around, context)
    networks = _networks(around.links)
    if len(networks) < 2:
        return passed(f"{service.name} listens on all addresses of a host in one network", networks=networks)
    allowed = allowed_networks(context, service.allowed)
    reached = [one for one in reached_by(listener, around) if not is_allowed(one.origin, allowed)]
    sure = [one for one in reached if one.answer == "accepted"]
    if sure:
        say = f"{service.name} listens on all addresses, and no packet filter keeps {sure[0].origin.who} out"
        return failed(say, networks=networks, interface=sure[0].origin.interface, by=sure[0].by)
    if reached:
        return unknown(f"who gets to {service.name} on all addresses depends on {reached[0].by}")
    return passed(f"{service.name} listens on all addresses, and a packet filter keeps others out", networks=networks)


def _single_address(listener: Listener, service: Service, around: Surroundings, context: Context) -> Verdict:
    networks = context.profile.networks
    where = f"{service.name} listens on {listener.address}"
    bridges = guest_bridges(around.links)
    at = [link.name for link in around.links.values() if listener.address in _addresses(link)]
    if set(at) & set(bridges) or _is_in(listener.address, networks.of("guest")):
        return failed(f"{where}, in a network of guests", interface=at)
    told = [network for role in service.allowed for network in networks.of(role)]
    if told and not _is_in(listener.address, told):
        return failed(f"{where}, which is in none of its networks", interface=at, networks=told)
    return passed(f"{where} alone", interface=at)


def _is_in(text: str, networks: Iterable[Network]) -> bool:
    address = ip_address(text)
    return any(address.version == network.version and address in network for network in networks)


def _addresses(link: Link) -> set[str]:
    return {str(ip_interface(text).ip) for text in link.addresses}


def _networks(links: dict[str, Link]) -> list[str]:
    interfaces = [(ip_interface(text), link.name) for link in links.values() for text in link.addresses]
    found = {name for one, name in interfaces if not (one.ip.is_loopback or one.ip.is_link_local)}
    return sorted(found)


@control("NET-05")
def no_open_address_on_guest_bridges(host: Host, context: Context) -> Iterable[Verdict]:
    """A guest finds nothing of the host on its bridge but what its network needs."""
    if not guest_bridges(need(host.network.links)):
        yield not_applicable("no guest's network card is in a bridge")
        return
    around = surroundings(host, context)
    listeners = [one for one in need(host.listeners.all) if not is_local(one.address)]
    nat = {one.bridge for one in need(host.domains.networks, absent={}).values() if one.forward != "bridge"}
    yield from each(
        guest_bridges(around.links),
        lambda name: _bridge(around.links[name], around, listeners, nat),
        subject=str,
        none="no guest's network card is in a bridge",
    )


def _bridge(bridge: Link, around: Surroundings, listeners: list[Listener], nat: set[str]) -> Verdict:
    served = _DHCP_AND_DNS if bridge.name in nat else set[tuple[str, int]]()
    others = [one for one in listeners if (one.protocol, one.port) not in served]
    fates = [(one, fate) for one in others for fate in _fates(one, bridge, around)]
    open_to_guests = sorted({f"{one.protocol}/{one.port}" for one, (answer, _) in fates if answer == "accepted"})
    lasting = [text for text in bridge.addresses if not ip_interface(text).ip.is_link_local]
    if open_to_guests:
        say = f"guests on {bridge.name} reach {', '.join(open_to_guests[:5])} of the host"
        return failed(say, addresses=bridge.addresses, services=open_to_guests)
    for one, (answer, by) in fates:
        if answer == "unknown":
            return unknown(f"whether guests on {bridge.name} reach {one.protocol}/{one.port} depends on {by}")
    if lasting and bridge.name not in nat:
        say = f"the host has an address on {bridge.name}, where guests are"
        return failed(say, lower=1, addresses=lasting)
    return passed(f"guests on {bridge.name} reach no service of the host", addresses=lasting or "none")


def _fates(listener: Listener, bridge: Link, around: Surroundings) -> Iterator[tuple[str, str]]:
    """What becomes of a guest's packets to a socket that hears what comes over the bridge."""
    for text in bridge.addresses:
        address = ip_interface(text).ip
        everywhere = listener.address == "::" or (listener.address == "0.0.0.0" and address.version == 4)  # noqa: S104
        if everywhere or listener.address == str(address):
            packet = Packet(neighbour(text), listener.port, bridge.name, listener.protocol, str(address))
            fate = simulate(around.ruleset, packet)
            yield fate.answer, fate.by
