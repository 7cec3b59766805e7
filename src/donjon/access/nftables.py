# SPDX-License-Identifier: Apache-2.0
"""The same access rules as nftables rules: drop what is denied, accept what is allowed, drop the rest.

Two sets, not their difference: one IPv6 address out of a /64 would take 64 elements. Connections that are open stay
open when the rules change; closing them is the listener's own work. Source: nft(8).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from donjon.access.effective import ranges_of
from donjon.access.rules import AccessRules, Item, Network

_FAMILIES = ((4, "ipv4_addr", "ip"), (6, "ipv6_addr", "ip6"))


def nft_ruleset(rules: AccessRules, port: int, table: str = "donjon_agent") -> str:
    """A table of its own that guards one TCP port, for `nft -f`; it replaces the table of that name in one step."""
    lines = [
        f"table inet {table}",
        f"delete table inet {table}",
        f"table inet {table} {{",
        *(f"    {line}" for line in nft_sets(rules)),
        "    chain input {",
        "        type filter hook input priority filter; policy accept;",
        *(f"        {line}" for line in nft_rules(rules, port)),
        "    }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def nft_sets(rules: AccessRules, prefix: str = "") -> list[str]:
    """The sets that `nft_rules` of the same prefix look into; one line each."""
    return [
        f"set {prefix}{name}{version} {{ type {kind}; flags interval;{_elements(items, version)} }}"
        for name, items in (("deny", rules.deny), ("allow", rules.allow))
        for version, kind, _ in _FAMILIES
    ]


def nft_rules(rules: AccessRules, port: int, prefix: str = "") -> list[str]:
    """What a chain at the input hook does with the port; everything else falls through."""
    return [
        f"tcp dport {port} ct state established,related accept",
        *_lookups(rules.deny, port, f"{prefix}deny", "drop"),
        *_lookups(rules.allow, port, f"{prefix}allow", "accept"),
        f"tcp dport {port} drop",
    ]


def _lookups(items: Sequence[Item], port: int, name: str, verdict: str) -> Iterator[str]:
    for version, _, protocol in _FAMILIES:
        yield f"{protocol} saddr @{name}{version} tcp dport {port} {verdict}"
    for item in items:
        if item.zone:
            yield f'iifname "{item.zone}" ip6 saddr {item.networks[0].network_address} tcp dport {port} {verdict}'


def _elements(items: Iterable[Item], version: int) -> str:
    networks: list[Network] = [
        network for item in items if not item.zone for network in item.networks if network.version == version
    ]
    shown = ", ".join(str(one) for one in ranges_of(networks))
    return f" elements = {{ {shown} }};" if shown else ""
