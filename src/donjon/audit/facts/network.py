# SPDX-License-Identifier: Apache-2.0
"""The host's network: links, addresses, bridges, VLANs, bonds and routes, and forwarding.

Hosts older than iproute2 4.14 have no JSON; there the same commands' text, brctl, /proc/net/vlan/config and
/proc/net/bonding are read.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network

from msgspec import Struct
from msgspec.structs import replace

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown, derived
from donjon.audit.facts import network_output as output

Address = IPv4Address | IPv6Address

_TAPS = ("vnet", "tap", "vif", "macvtap")
"""How libvirt, QEMU and Xen call the host's end of a guest's network card."""


class Link(Struct, frozen=True):
    """An interface.

    `kind`: physical, bridge, vlan, bond, tun, veth, ...; `addresses` with prefix length; `master` is the bridge or bond
    it belongs to; `parent` and `vlan` of a VLAN interface.
    """

    name: str
    kind: str
    mac: str = ""
    up: bool = False
    addresses: tuple[str, ...] = ()
    master: str = ""
    parent: str = ""
    vlan: int = 0
    vlan_filtering: bool = False
    stp: bool = False
    bond_members: tuple[str, ...] = ()
    port_vlans: tuple[int, ...] = ()
    port_native: int = 0
    """Of a port of a bridge that filters VLANs: those it carries, and the one that is untagged (PVID)."""
    pci: str = ""

    @property
    def is_guest_port(self) -> bool:
        """Whether it is the host's end of a guest's network card."""
        return self.kind in {"tun", "macvtap"} or self.name.startswith(_TAPS)


class Network(Struct, frozen=True):
    """`forwarding`: IPv4 and IPv6; `routes`: destination -> device."""

    links: Fact[dict[str, Link]]
    routes: Fact[dict[str, str]]
    forwarding: Fact[tuple[bool, bool]]


def read_network(bundle: Bundle) -> Network:
    """From ip -j and bridge -j, or ip and brctl on old hosts."""
    return Network(
        _links(bundle),
        derived(bundle.output("ip-routes"), output.routes),
        derived(bundle.output("forwarding"), output.forwarding),
    )


def guest_bridges(links: dict[str, Link]) -> tuple[str, ...]:
    """Bridges with a guest's network card in them."""
    return tuple(sorted({link.master for link in links.values() if link.master in links and link.is_guest_port}))


def host_addresses(links: dict[str, Link]) -> dict[Address, str]:
    """Every address of the host that others may reach, and its interface; link-local and loopback ones are left out."""
    found: dict[Address, str] = {}
    for link in links.values():
        for text in link.addresses:
            address = ip_interface(text).ip
            if not (address.is_loopback or address.is_link_local):
                found[address] = link.name
    return found


def route_to(source: str, routes: dict[str, str]) -> str:
    """The device by which a packet from this address arrives if nobody lies, "" if no route says so."""
    address = ip_address(source)
    fitting = [network for network in routes if address in ip_network(network)]
    return routes[max(fitting, key=lambda text: ip_network(text).prefixlen)] if fitting else ""


def _links(bundle: Bundle) -> Fact[dict[str, Link]]:
    links = derived(bundle.output("ip-addresses"), parse_addresses)
    if not isinstance(links, Known):
        return links
    found = _with_pci(links.value, bundle)
    if any(link.vlan_filtering for link in found.values()):
        ports = derived(bundle.output("bridge-vlans"), lambda text: _with_port_vlans(found, text))
        return Known(ports.value, links.source) if isinstance(ports, Known) else _unseen(ports)
    if any(link.kind == "" for link in found.values()):
        return _old_links(bundle, found, links.source)
    return Known(found, links.source)


def _unseen(fact: Absent | Unknown) -> Unknown:
    return fact if isinstance(fact, Unknown) else Unknown(f"not there: {fact.source}")


def parse_addresses(text: str) -> dict[str, Link]:
    """What `ip -j -d addr show` prints, or `ip addr show`, which does not tell the kind of a link: "" then."""
    if not output.is_json(text):
        return {one.name: _text_link(one) for one in output.text_links(text)}
    links = [_link(entry) for entry in output.json_lists(text, output.Entry) if entry.ifname]
    members = {link.name: tuple(one.name for one in links if one.master == link.name) for link in links}
    return {
        link.name: replace(link, bond_members=members[link.name]) if link.kind == "bond" else link for link in links
    }


def _text_link(one: output.TextLink) -> Link:
    kind = "loopback" if "LOOPBACK" in one.flags else ""
    return Link(one.name, kind, one.mac, "UP" in one.flags, one.addresses, one.master, one.parent)


def _link(entry: output.Entry) -> Link:
    data = entry.linkinfo.info_data
    kind = "loopback" if entry.link_type == "loopback" else entry.linkinfo.info_kind or "physical"
    vlan = data.get("id", 0) if kind == "vlan" else 0
    addresses = (f"{one.local}/{one.prefixlen}" for one in entry.addr_info if one.local)
    return Link(
        name=entry.ifname,
        kind=kind,
        mac=entry.address,
        up="UP" in entry.flags,
        addresses=tuple(output.checked_address(address) for address in addresses),
        master=entry.master,
        parent=entry.link if kind in {"vlan", "macvtap", "macvlan"} else "",
        vlan=vlan if isinstance(vlan, int) else 0,
        vlan_filtering=kind == "bridge" and bool(data.get("vlan_filtering")),
        stp=kind == "bridge" and bool(data.get("stp_state")),
    )


def _old_links(bundle: Bundle, links: dict[str, Link], source: str) -> Fact[dict[str, Link]]:
    """Kinds of links from brctl, /proc/net/vlan and /proc/net/bonding, where ip does not tell them."""
    bridges = derived(bundle.output("bridges"), output.bridges)
    vlans = derived(bundle.output("vlans"), output.vlans)
    bonds = derived(bundle.output("bonds"), output.bonds)
    if isinstance(bridges, Absent):
        bridges = Known({}, bridges.source)  # without brctl, nobody made a bridge on so old a host
    if not (isinstance(bridges, Known) and isinstance(vlans, Known) and isinstance(bonds, Known)):
        return next(_unseen(fact) for fact in (bridges, vlans, bonds) if not isinstance(fact, Known))
    master = {port: bridge for bridge, (_, ports) in bridges.value.items() for port in ports}
    master |= {member: bond for bond, members in bonds.value.items() for member in members}
    kinds = dict.fromkeys(bridges.value, "bridge") | dict.fromkeys(vlans.value, "vlan")
    kinds |= dict.fromkeys(bonds.value, "bond")
    return Known(
        {
            name: replace(
                link,
                kind=link.kind or kinds.get(name, "tun" if name.startswith(_TAPS) else "physical"),
                master=link.master or master.get(name, ""),
                vlan=vlans.value.get(name, (0, ""))[0],
                parent=vlans.value.get(name, (0, ""))[1],
                stp=bridges.value.get(name, (False, ()))[0],
                bond_members=bonds.value.get(name, ()),
            )
            for name, link in links.items()
        },
        source,
    )


def _with_pci(links: dict[str, Link], bundle: Bundle) -> dict[str, Link]:
    listing = bundle.output("net-devices")
    found = output.pci_devices(listing.value) if isinstance(listing, Known) else {}
    return {name: replace(link, pci=found.get(name, "")) for name, link in links.items()}


def _with_port_vlans(links: dict[str, Link], text: str) -> dict[str, Link]:
    found = dict(links)
    for port in output.json_lists(text, output.Port):
        if port.ifname in found:
            carried = [vlan for one in port.vlans for vlan in range(one.vlan, max(one.vlan, one.end) + 1)]
            native = [one.vlan for one in port.vlans if "PVID" in one.flags]
            found[port.ifname] = replace(
                found[port.ifname], port_vlans=tuple(carried[:4096]), port_native=native[0] if native else 0
            )
    return found
