# SPDX-License-Identifier: Apache-2.0
"""Who may connect: `addr.match(allow) and not addr.match(deny)`, and the grammar of the two lists.

An item is `*` (every IPv4 and IPv6 address), an IPv4 address, one with whole trailing octets starred, an IPv6 address
with or without %zone, or a network in CIDR form. Deny always wins; order and specificity never matter; loopback has no
exemption. One item that cannot be understood refuses the whole list: a typo in deny must not open access.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from msgspec import Struct

from donjon.errors import ConfigError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

EVERYBODY: tuple[Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

_STARRED = re.compile(r"((?:[0-9]{1,3}\.){1,3})\*((?:\.\*)*)")
_PREFIX = re.compile(r"0|[1-9][0-9]{0,2}")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_HINT = "write single addresses, 10.0.0.*, or networks as 10.0.0.0/24, separated by commas"


class Item(Struct, frozen=True):
    """An item of a list, and what it matches: `networks`, from `zone` only if it names one.

    `notes` say where it may not be what its author meant.
    """

    text: str
    networks: tuple[Network, ...]
    zone: str = ""
    notes: tuple[str, ...] = ()

    def matches(self, address: Address, zone: str) -> bool:
        """Whether a peer of this address and zone is meant; families never cross."""
        return self.zone in {"", zone} and any(
            address.version == network.version and address in network for network in self.networks
        )


class AccessRules(Struct, frozen=True):
    """The allow list and the deny list of a listener."""

    allow: tuple[Item, ...]
    deny: tuple[Item, ...]

    def permits(self, peer: str) -> bool:
        """Whether a peer may connect; `peer` is the remote address of the socket and nothing a client wrote.

        Raises:
            ValueError: it is no address.
        """
        address, zone = normalised(peer)
        return _any(self.allow, address, zone) and not _any(self.deny, address, zone)


def parse_rules(allow: str, deny: str) -> AccessRules:
    """Both lists as they were written; an empty allow list permits nobody.

    Raises:
        ConfigError: an item of one of them cannot be understood; names list and item.
    """
    return AccessRules(parse_list(allow, "allow"), parse_list(deny, "deny"))


def foreign_rules(allow: str | None, deny: str | None) -> AccessRules:
    """The rules of an Oracle VM server: a key that is missing means what its agent takes it for: everybody, nobody.

    Raises:
        ConfigError: as `parse_rules`.
    """
    return parse_rules("*" if allow is None else allow, deny or "")


def listener_rules(bind: str, allow: str | None, deny: str | None) -> AccessRules:
    """The rules of donjon's own listener, for which a list that is missing opens nothing but loopback.

    Raises:
        ConfigError: `bind` is beyond loopback and nobody said who may connect; or as `parse_rules`.
    """
    if allow is not None:
        return parse_rules(allow, deny or "")
    if not _is_loopback(bind):
        raise ConfigError(
            f"cannot listen on {bind}: nobody said who may connect",
            hint='set `allow` to the addresses of your managers, as in allow = "10.0.0.5,10.0.1.0/24"',
        )
    return parse_rules("127.0.0.0/8,::1", deny or "")


def parse_list(text: str, name: str) -> tuple[Item, ...]:
    """The items of one list; blanks around them do not matter. The empty string is the empty list.

    Raises:
        ConfigError: an item cannot be understood.
    """
    if not text.strip(" \t"):
        return ()
    return tuple(_parse_item(item.strip(" \t"), name) for item in text.split(","))


def normalised(peer: str) -> tuple[Address, str]:
    """Address and zone of a peer; an IPv4 peer of a dual-stack socket (::ffff:a.b.c.d) is an IPv4 peer.

    Raises:
        ValueError: it is no address.
    """
    address = ip_address(peer)
    if isinstance(address, IPv4Address):
        return address, ""
    if mapped := address.ipv4_mapped:
        return mapped, ""
    return IPv6Address(int(address)), address.scope_id or ""


def _any(items: Sequence[Item], address: Address, zone: str) -> bool:
    return any(item.matches(address, zone) for item in items)


def _is_loopback(bind: str) -> bool:
    try:
        address, _ = normalised(bind)
    except ValueError as error:
        raise ConfigError(f"cannot listen on {bind}: it is no address") from error
    return address.is_loopback


def _parse_item(text: str, name: str) -> Item:
    if text == "*":
        return Item(text, EVERYBODY)
    if starred := _STARRED.fullmatch(text):
        return _parse_starred(text, starred[1], starred[2], name)
    address, slash, prefix = text.partition("/")
    if not text.isascii() or (slash and not _PREFIX.fullmatch(prefix)):
        raise _refused(text, name)
    if "%" in address:
        return _parse_zoned(text, name)
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise _refused(text, name) from error
    notes = (f"{text} has host bits set and matches all of {network}",) if _has_host_bits(text) else ()
    return _unmapped(Item(text, (network,), notes=notes))


def _parse_starred(text: str, octets: str, more: str, name: str) -> Item:
    known = octets.rstrip(".").split(".")
    written = len(known) + 1 + len(more) // 2
    address = ".".join(known + ["0"] * (4 - len(known)))
    if written > 4:
        raise _refused(text, name)
    try:
        network = IPv4Network(f"{address}/{8 * len(known)}")
    except ValueError as error:
        raise _refused(text, name) from error
    notes = () if written == 4 else (f"{text} is short for {network}; write it so",)
    return Item(text, (network,), notes=notes)


def _parse_zoned(text: str, name: str) -> Item:
    try:
        address = IPv6Address(text)
    except ValueError as error:
        raise _refused(text, name) from error
    if address.ipv4_mapped or not _ZONE.fullmatch(address.scope_id or ""):
        raise _refused(text, name)
    return Item(text, (IPv6Network(int(address)),), zone=address.scope_id or "")


def _has_host_bits(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return True
    return False


def _unmapped(item: Item) -> Item:
    """An IPv4 network written as part of ::ffff:0:0/96 is that IPv4 network."""
    (network,) = item.networks
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < 96:
        return item
    plain = IPv4Network((mapped, network.prefixlen - 96))
    return Item(item.text, (plain,), notes=(*item.notes, f"{item.text} is IPv4 written as IPv6: {plain}"))


def _refused(text: str, name: str) -> ConfigError:
    what = repr(text) if text else "an empty item"
    return ConfigError(f"cannot use the {name} list: {what} is neither an address nor a network", hint=_HINT)
