# SPDX-License-Identifier: Apache-2.0
"""The host's network: links, addresses, bridges, VLANs, bonds and routes, and forwarding."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Unknown


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


class Network(Struct, frozen=True):
    """`forwarding`: IPv4 and IPv6; `routes`: destination -> device."""

    links: Fact[dict[str, Link]]
    routes: Fact[dict[str, str]]
    forwarding: Fact[tuple[bool, bool]]


def read_network(bundle: Bundle) -> Network:
    """From ip -j and bridge -j, or ip and brctl on old hosts."""
    return Network(Unknown("not read yet"), Unknown("not read yet"), Unknown("not read yet"))
