# SPDX-License-Identifier: Apache-2.0
"""What ip, bridge, brctl and /proc print of the network, as plain values.

Sources: ip-address(8), ip-route(8), bridge(8), brctl(8); kernel documentation: networking/bonding.rst. Everything here
raises ValueError or LookupError where a text cannot be understood.
"""

from __future__ import annotations

import itertools
import re
from ipaddress import ip_interface, ip_network
from typing import TypeVar

import msgspec
from msgspec import Struct, field

T = TypeVar("T")


class Info(Struct):
    """What `ip -d` adds about the kind of a link."""

    info_kind: str = ""
    info_data: dict[str, object] = field(default_factory=dict)


class Address(Struct):
    """An address of a link, as `ip -j` writes it."""

    local: str = ""
    prefixlen: int = 0


class Entry(Struct):
    """What `ip -j -d addr show` says of one link."""

    ifname: str = ""
    flags: tuple[str, ...] = ()
    link_type: str = ""
    address: str = ""
    master: str = ""
    link: str = ""
    linkinfo: Info = field(default_factory=Info)
    addr_info: tuple[Address, ...] = ()


class PortVlan(Struct, rename={"end": "vlanEnd"}):
    """A VLAN, or a range, that a port of a bridge carries."""

    vlan: int
    end: int = 0
    flags: tuple[str, ...] = ()


class Port(Struct):
    """What `bridge -j vlan show` says of one port."""

    ifname: str = ""
    vlans: tuple[PortVlan, ...] = ()


class _Via(Struct):
    host: str = ""


class _Route(Struct):
    dst: str
    dev: str = ""
    gateway: str = ""
    via: _Via = field(default_factory=_Via)


def json_lists(text: str, kind: type[T]) -> list[T]:
    """The objects of one JSON list, or of several, a line each."""
    try:
        lists = [msgspec.json.decode(line, type=list[kind]) for line in text.splitlines() if line.strip()]  # type: ignore[valid-type]
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(str(error)) from error
    return [entry for one in lists for entry in one]


def is_json(text: str) -> bool:
    """Whether the program knew -j."""
    return text.lstrip().startswith("[")


def checked_address(text: str) -> str:
    """An address with prefix length as ipaddress writes it."""
    return ip_interface(text).with_prefixlen


class TextLink(Struct):
    """What `ip addr show` says of one link without -j."""

    name: str
    parent: str
    flags: tuple[str, ...]
    master: str
    mac: str = ""
    addresses: tuple[str, ...] = ()


_HEAD = re.compile(r"\d+: ([^:@\s]+)(?:@(\S+))?: <([^>]*)>(?:.* master (\S+))?")


def text_links(text: str) -> list[TextLink]:
    """What `ip addr show` prints."""
    links: list[TextLink] = []
    for line in text.splitlines():
        words = line.split()
        if head := _HEAD.match(line):
            name, parent, flags, master = head.groups("")
            links.append(TextLink(name, parent, tuple(flags.split(",")), master))
        elif not line[:1].isspace() or not links:
            raise ValueError(f"no interface: {line!r}")
        elif words[:1] in (["inet"], ["inet6"]):
            address = words[1] + "/" + words[3].partition("/")[2] if words[2] == "peer" else words[1]
            links[-1].addresses += (checked_address(address),)
        elif words and words[0].startswith("link/") and len(words) > 1:
            links[-1].mac = words[1]
    if not links:
        raise ValueError("no interface at all")
    return links


def bridges(text: str) -> dict[str, tuple[bool, tuple[str, ...]]]:
    """Bridge -> whether STP is on, and its ports; from `brctl show`."""
    found: dict[str, tuple[bool, tuple[str, ...]]] = {}
    last = ""
    for line in text.splitlines()[1:]:
        words = line.split()
        if words and not line[0].isspace():
            last = words[0]
            found[last] = (words[2] == "yes", tuple(words[3:4]))
        elif words:
            stp, ports = found[last]
            found[last] = (stp, (*ports, words[0]))
    return found


def vlans(text: str) -> dict[str, tuple[int, str]]:
    """Interface -> VLAN and parent; from /proc/net/vlan/config: "eth0.5 | 5 | eth0"."""
    rows = [[word.strip() for word in line.split("|")] for line in text.splitlines()]
    return {row[0]: (int(row[1]), row[2]) for row in rows if len(row) == 3}


def bonds(text: str) -> dict[str, tuple[str, ...]]:
    """Bond -> members; from grep's "/proc/net/bonding/bond0:Slave Interface: eth0"."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        path, _, member = line.partition(":Slave Interface:")
        bond = path.rpartition("/")[2]
        found[bond] = (*found.get(bond, ()), member.strip())
    return found


_PCI = r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]"
_DEVICE = re.compile(rf"\s(\S+) -> \S*/({_PCI})(?:/(?!\S*{_PCI})\S*)?/net/\S+$")


def pci_devices(text: str) -> dict[str, str]:
    """Interface -> PCI device, the last on the way to it; from `ls -l /sys/class/net`."""
    found = (_DEVICE.search(line) for line in text.splitlines())
    return {match[1]: match[2] for match in found if match}


def routes(text: str) -> dict[str, str]:
    """Destination -> device, from `ip -j route show` and `ip -j -6 route show`, a list each, or from their text."""
    found: dict[str, str] = {}
    if is_json(text):
        for entry in json_lists(text, _Route):
            _add_route(found, entry.dst, entry.dev, entry.gateway or entry.via.host)
        return found
    for line in text.splitlines():
        words = line.split()
        after = dict(itertools.pairwise(words))
        if words:
            _add_route(found, words[0], after.get("dev", ""), after.get("via", ""))
    return found


def _add_route(found: dict[str, str], destination: str, device: str, gateway: str) -> None:
    """A default route without gateway counts as one of IPv4: only then is something thought to be reachable by it."""
    if destination == "default":
        destination = "::/0" if ":" in gateway else "0.0.0.0/0"
    if device and destination not in {"unreachable", "blackhole", "prohibit"}:
        found.setdefault(str(ip_network(destination)), device)


def forwarding(text: str) -> tuple[bool, bool]:
    """IPv4 and IPv6, from grep's "PATH:VALUE"; the template for interfaces yet to come does not count."""
    pairs = (line.rpartition(":") for line in text.splitlines())
    values = {path: value.strip() for path, _, value in pairs}
    if "/proc/sys/net/ipv4/ip_forward" not in values:
        raise ValueError("ip_forward is missing")
    on = [path for path, value in values.items() if value != "0" and "/default/" not in path]
    return any("/ipv4/" in path for path in on), any("/ipv6/" in path for path in on)
