# SPDX-License-Identifier: Apache-2.0
"""Which segment of the network a guest's card is in, and which the host's own addresses are in."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_interface

from donjon.audit.fact import Unseen, need
from donjon.audit.facts.domains import NicFact
from donjon.audit.facts.host import Host
from donjon.audit.facts.network import Link

Segment = str
"""A device of the host where frames are switched, and a VLAN on it: "br0", "eth0.20", "br0 vlan 20"."""


def segment_of(host: Host, nic: NicFact) -> Segment:
    """Where a guest's card is; by the bridge or device of its network, if it names one of libvirt's.

    Raises:
        Unseen: the network is not known.
    """
    device, vlan = switch_of(host, nic)
    links = need(host.network.links, {})
    port = links.get(nic.tap)
    if not vlan and port is not None and device in links and links[device].vlan_filtering:
        vlan = port.port_native
    return _segment(links, device, vlan)


def switch_of(host: Host, nic: NicFact) -> tuple[str, int]:
    """The bridge or device that a guest's card is joined to, and the VLAN it is put into; 0: none."""
    vlan = nic.native_vlan or (nic.vlan[0] if len(nic.vlan) == 1 else 0)
    if nic.kind != "network":
        return nic.source or nic.kind, vlan
    networks = need(host.domains.networks)
    if nic.source not in networks:
        raise Unseen(f"libvirt knows no network {nic.source}")
    network = networks[nic.source]
    own = network.native_vlan or (network.vlan[0] if len(network.vlan) == 1 else 0)
    return network.bridge or network.device or f"network {network.name}", vlan or own


def _segment(links: dict[str, Link], device: str, vlan: int) -> Segment:
    """A bridge with one VLAN interface as its uplink is that VLAN of the card below it."""
    if vlan:
        return f"{device} vlan {vlan}"
    link = links.get(device)
    if link is not None and link.kind == "bridge":
        uplinks = uplinks_of(links, device)
        if len(uplinks) == 1 and uplinks[0].kind == "vlan":
            return f"{uplinks[0].parent} vlan {uplinks[0].vlan}"
        if len(uplinks) == 1:
            return uplinks[0].name
    if link is not None and link.kind == "vlan":
        return f"{link.parent} vlan {link.vlan}"
    return device


def uplinks_of(links: dict[str, Link], bridge: str) -> list[Link]:
    """The ports of a bridge that lead out of the host: no guests' ports."""
    return [link for link in links.values() if link.master == bridge and not link.is_guest_port and link.kind != "veth"]


def management_segments(host: Host, networks: tuple[IPv4Network | IPv6Network, ...]) -> dict[Segment, str]:
    """Segments with an address of the host from these networks; without networks, of the default route's interface.

    Raises:
        Unseen: links or routes could not be seen.
    """
    links = need(host.network.links)
    if networks:
        own = {link.name: address for link in links.values() for address in link.addresses if _in(address, networks)}
    else:
        routes = need(host.network.routes)
        device = routes.get("default") or routes.get("0.0.0.0/0") or routes.get("::/0") or ""
        own = {device: ", ".join(links[device].addresses)} if device in links else {}
    if not own:
        raise Unseen("which segment the host is managed through could not be seen: name the management network")
    return {_segment(links, device, 0): address for device, address in own.items()}


def management_vlans(host: Host, networks: tuple[IPv4Network | IPv6Network, ...]) -> set[int]:
    """VLAN 1, where switches are managed until somebody changes it, and those with an address from these networks."""
    links = need(host.network.links, {})
    tagged = [link for link in links.values() if link.kind == "vlan"]
    return {1, *(link.vlan for link in tagged if any(_in(address, networks) for address in link.addresses))}


def _in(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    ip = ip_interface(address).ip
    return any(ip in network for network in networks if network.version == ip.version)
