# SPDX-License-Identifier: Apache-2.0
"""Who has business with a service, as rules of nft; addresses come from the profile and are never guessed.

Source: nft(8).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_network

from donjon.access.effective import ranges_of
from donjon.access.rules import Network
from donjon.audit.controls.segments import uplinks_of
from donjon.audit.fact import Unseen, need
from donjon.audit.facts.host import Host
from donjon.audit.profile import Profile

_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,14}")
_SINGLE = {"management": "managers", "migration": "peers"}
"""Role of networks -> what the profile calls single addresses of that role."""


def told(profile: Profile, roles: tuple[str, ...], service: str) -> list[Network]:
    """The networks that may reach a service, by roles.

    Raises:
        Unseen: the profile tells none.
    """
    names = [*roles, *(_SINGLE[role] for role in roles if role in _SINGLE)]
    found = [ip_network(text, strict=False) for name in names for text in getattr(profile.networks, name)]
    if not found:
        raise Unseen(f"the profile does not say who may reach {service}: it names no {' or '.join(roles)} network")
    return found


def accepted(networks: Iterable[Network], packets: str) -> list[str]:
    """Rules that let such packets in from these networks: `packets` as "tcp dport 22"."""
    ranges = ranges_of(networks)
    rules = []
    for version, family in ((4, "ip"), (6, "ip6")):
        addresses = ", ".join(str(one) for one in ranges if one.version == version)
        if addresses:
            rules.append(f"{family} saddr {{ {addresses} }} {packets} accept")
    return rules


def only(networks: Iterable[Network], packets: str) -> list[str]:
    """Rules that let such packets in from these networks, and drop those of everybody else."""
    return [*accepted(networks, packets), f"{packets} drop"]


def through(interface: str) -> str:
    """That a packet came in by this interface.

    Raises:
        Unseen: no interface can have such a name.
    """
    if not _INTERFACE.fullmatch(interface):
        raise Unseen(f"{interface!r} is no name of an interface")
    return f'iifname "{interface}"'


def served_to_guests(host: Host) -> list[str]:
    """Rules that let guests ask libvirt's own dnsmasq, on the bridges of its networks, for addresses and names."""
    bridges = {one.bridge for one in need(host.domains.networks, absent={}).values() if one.forward != "bridge"}
    links = need(host.network.links)
    return [
        f"{through(name)} {packets} accept"
        for name in sorted(bridges - {""})
        if not (name in links and uplinks_of(links, name))
        for packets in ("udp dport { 53, 67, 547 }", "tcp dport 53")
    ]
