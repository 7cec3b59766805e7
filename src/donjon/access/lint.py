# SPDX-License-Identifier: Apache-2.0
"""What is wrong with access rules that parse: wider than they look, contradicting, locking out, letting in too much.

Grammar is AGT-02 of the catalogue, contradictions AGT-03, and how much is let in AGT-04.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from donjon.access.effective import effective_ranges, networks_of, overlap, ranges_of, subtract
from donjon.access.rules import AccessRules, Network, parse_list


class Finding(Struct, frozen=True):
    """Something wrong with the rules; `item` is the part it is about. `minor`: it does no harm as it is."""

    item: str
    message: str
    minor: bool = False


def grammar_findings(rules: AccessRules) -> Iterator[Finding]:
    """Items that may not be what their author meant."""
    for name, items in (("allow", rules.allow), ("deny", rules.deny)):
        for item in items:
            yield from (Finding(item.text, f"{name}: {note}") for note in item.notes)


def contradictions(rules: AccessRules, needed: Iterable[str] = ()) -> Iterator[Finding]:
    """Rules that let nobody in, or not one of the `needed` addresses; and deny items without effect."""
    if not rules.allow:
        yield Finding("allow", "the allow list is empty and locks everybody out")
    elif not effective_ranges(rules):
        yield Finding("deny", "the deny list covers all that is allowed")
    for address in needed:
        if not rules.permits(address):
            yield Finding(address, f"{address} is needed and not let in")
    allowed = ranges_of(networks_of(rules.allow))
    for item in rules.deny:
        if not overlap(ranges_of(item.networks), allowed):
            yield Finding(item.text, f"deny: {item.text} takes nothing away from what is allowed", minor=True)


def breadth(rules: AccessRules, guests: Iterable[Network], limit: int) -> Iterator[Finding]:
    """Guests' networks that are let in, and more addresses than `limit`."""
    ranges = effective_ranges(rules)
    for network in guests:
        if found := overlap(ranges, ranges_of([network])):
            yield Finding(str(network), f"guests in {network} are let in: {found[0]}")
    if (count := sum(one.size for one in ranges)) > limit:
        yield Finding("allow", f"{count} addresses are let in, more than {limit}", minor=True)


def first_difference(rules: AccessRules, admitted: Iterable[Network]) -> str:
    """The first address that something else admits and the rules do not, "" if there is none."""
    more = subtract(ranges_of(admitted), list(effective_ranges(rules)))
    return str(more[0]).partition("-")[0] if more else ""


def is_everybody(text: str) -> bool:
    """Whether an allow list that parses lets in every IPv4 or every IPv6 address."""
    allowed = ranges_of(networks_of(parse_list(text, "allow")))
    return any(not subtract(ranges_of([network]), allowed) for network in _ALL)


_ALL = networks_of(parse_list("*", "allow"))
