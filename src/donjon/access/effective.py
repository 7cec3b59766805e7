# SPDX-License-Identifier: Apache-2.0
"""The set of addresses that access rules let in, allow minus deny, as networks and as ranges.

Networks know no zones: an allowed address counts whatever its zone, a denied one with zone counts not at all. So the
set is never smaller than what the rules permit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)

from msgspec import Struct

from donjon.access.rules import AccessRules, Item, Network


class Range(Struct, frozen=True, order=True):
    """Addresses of one family, `first` to `last`, both included, as numbers."""

    version: int
    first: int
    last: int

    def __str__(self) -> str:
        """As "10.0.0.1-10.0.0.9", a single address alone."""
        kind = IPv4Address if self.version == 4 else IPv6Address
        return str(kind(self.first)) + (f"-{kind(self.last)}" if self.last > self.first else "")

    @property
    def size(self) -> int:
        """How many addresses."""
        return self.last - self.first + 1


def effective_ranges(rules: AccessRules) -> tuple[Range, ...]:
    """What the rules let in, ascending; no two ranges touch."""
    denied = networks_of(item for item in rules.deny if not item.zone)
    return tuple(subtract(ranges_of(networks_of(rules.allow)), ranges_of(denied)))


def effective(rules: AccessRules) -> tuple[Network, ...]:
    """What the rules let in, as the fewest networks."""
    return tuple(network for one in effective_ranges(rules) for network in _summarized(one))


def networks_of(items: Iterable[Item]) -> list[Network]:
    """All networks of a list."""
    return [network for item in items for network in item.networks]


def ranges_of(networks: Iterable[Network]) -> list[Range]:
    """Networks as ranges, ascending and merged."""
    return merge(
        Range(network.version, int(network.network_address), int(network.broadcast_address)) for network in networks
    )


def range_of(text: str) -> Range:
    """An address, a network or "FIRST-LAST", as packet filters write them.

    Raises:
        ValueError: it is none of these.
    """
    first, dash, last = text.partition("-")
    if not dash:
        return ranges_of([ip_network(text, strict=False)])[0]
    low, high = ip_address(first), ip_address(last)
    return Range(low.version, int(low), int(high))


def merge(ranges: Iterable[Range]) -> list[Range]:
    """The same addresses in the fewest ranges."""
    merged: list[Range] = []
    for one in sorted(ranges):
        last = merged[-1] if merged else None
        if last and last.version == one.version and one.first <= last.last + 1:
            merged[-1] = Range(last.version, last.first, max(last.last, one.last))
        else:
            merged.append(one)
    return merged


def subtract(ranges: Sequence[Range], removed: Sequence[Range]) -> list[Range]:
    """What is in `ranges` and not in `removed`; both are merged."""
    left: list[Range] = []
    for one in ranges:
        first = one.first
        for gap in removed:
            if gap.version == one.version and gap.first <= one.last and gap.last >= first:
                if gap.first > first:
                    left.append(Range(one.version, first, gap.first - 1))
                first = max(first, gap.last + 1)
        if first <= one.last:
            left.append(Range(one.version, first, one.last))
    return left


def overlap(ranges: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """What is in both."""
    return subtract(ranges, subtract(ranges, others))


def _summarized(one: Range) -> Iterable[IPv4Network | IPv6Network]:
    if one.version == 4:
        return summarize_address_range(IPv4Address(one.first), IPv4Address(one.last))
    return summarize_address_range(IPv6Address(one.first), IPv6Address(one.last))
