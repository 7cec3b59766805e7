# SPDX-License-Identifier: Apache-2.0
"""Who gets to a listening socket of the host: packets from each kind of network, sent through its packet filter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_interface, ip_network

from msgspec import Struct

from donjon.audit.control import Context
from donjon.audit.fact import Unknown, need
from donjon.audit.facts.host import Host
from donjon.audit.facts.listeners import Listener
from donjon.audit.facts.network import Link, guest_bridges, route_to
from donjon.audit.facts.ruleset import Packet, Ruleset, simulate
from donjon.audit.profile import Network

ANYWHERE = ("203.0.113.77", "2001:db8:ffff::77")
"""Addresses for documentation, RFC 5737 and RFC 3849: nobody in particular."""

ROLES = ("management", "migration", "storage", "backup")


class Origin(Struct, frozen=True):
    """Where a packet comes from: who that is ("anywhere", "guests", or a role), address, and interface."""

    who: str
    address: str
    interface: str


class Reached(Struct, frozen=True):
    """Who gets to a socket; `answer` is accepted or unknown, `by` the rule that decides."""

    origin: Origin
    answer: str
    by: str


class Surroundings(Struct, frozen=True):
    """What lies around a host: its links and packet filter, and where packets may come from."""

    links: dict[str, Link]
    ruleset: Ruleset
    origins: tuple[Origin, ...]


def surroundings(host: Host, context: Context) -> Surroundings:
    """What is needed to ask who gets to a socket.

    Raises:
        Unseen: links or packet filter are not known.
    """
    links = need(host.network.links)
    ruleset = need(host.firewall.running, absent=Ruleset())
    routes = {} if isinstance(host.network.routes, Unknown) else need(host.network.routes, absent={})
    return Surroundings(links, ruleset, tuple(_origins(links, routes, context)))


def reached_by(listener: Listener, around: Surroundings) -> Iterator[Reached]:
    """Who gets to this socket or may do so."""
    for origin in around.origins:
        if not _same_family(listener.address, origin.address) or listener.device not in {"", origin.interface}:
            continue
        for to in _destinations(listener, origin, around.links):
            packet = Packet(origin.address, listener.port, origin.interface, listener.protocol, to)
            fate = simulate(around.ruleset, packet)
            if fate.answer != "blocked":
                yield Reached(origin, fate.answer, fate.by)


def _destinations(listener: Listener, origin: Origin, links: dict[str, Link]) -> list[str]:
    """The address it listens on; if that is all of them, every one of the host's, for any is reached over any link."""
    if not ip_address(listener.address).is_unspecified:
        return [listener.address]
    addresses = (ip_interface(text).ip for link in links.values() for text in link.addresses)
    version = ip_address(origin.address).version
    return [str(one) for one in addresses if one.version == version and not one.is_loopback]


def _same_family(listens: str, source: str) -> bool:
    """A socket on "::" hears IPv4, too."""
    return listens == "::" or (":" in listens) == (":" in source)


def is_local(address: str) -> bool:
    """Whether a socket there can be reached from this host alone."""
    return ip_address(address).is_loopback


def _origins(links: dict[str, Link], routes: dict[str, str], context: Context) -> Iterator[Origin]:
    networks = context.profile.networks
    bridges = guest_bridges(links)
    outer = [link for link in links.values() if link.kind != "loopback" and link.addresses and link.name not in bridges]
    for link in outer:
        families = {":" in text for text in link.addresses}
        yield from (Origin("anywhere", one, link.name) for one in ANYWHERE if (":" in one) in families)
    for name in bridges:
        yield from (Origin("guests", neighbour(text), name) for text in links[name].addresses)
    for role in ("guest", *ROLES):
        for network in networks.of(role):
            address = str(_some_address(network))
            for interface in _ways_in(network, address, outer, routes):
                yield Origin("guests" if role == "guest" else role, address, interface)


def neighbour(text: str) -> str:
    """Another address in the network of an interface."""
    interface = ip_interface(text)
    size = interface.network.num_addresses
    step = 1 if size < 128 else 77
    return str(
        interface.network.network_address + (int(interface.ip) - int(interface.network.network_address) + step) % size
    )


def _some_address(network: Network) -> object:
    return network.network_address + (77 if network.num_addresses > 77 else network.num_addresses // 2)


def _ways_in(network: Network, address: str, outer: Iterable[Link], routes: dict[str, str]) -> list[str]:
    """The interface in that network, else the one the route back leads to, else all."""
    connected = [link.name for link in outer if any(_is_in(text, network) for text in link.addresses)]
    route = route_to(address, routes)
    return connected or ([route] if route else [link.name for link in outer])


def _is_in(text: str, network: Network) -> bool:
    address = ip_interface(text).ip
    return address.version == network.version and address in network


def allowed_networks(context: Context, roles: Iterable[str]) -> list[Network]:
    """All networks of these roles; managers count as management, peers as migration."""
    networks = context.profile.networks
    single = {"management": networks.managers, "migration": networks.peers}
    found = [network for role in roles for network in networks.of(role)]
    return found + [ip_network(text) for role in roles for text in single.get(role, ())]


def is_allowed(origin: Origin, allowed: Iterable[Network]) -> bool:
    """Whether a packet from there is one of those that may come."""
    address = ip_address(origin.address)
    return any(address.version == network.version and address in network for network in allowed)
