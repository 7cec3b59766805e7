# SPDX-License-Identifier: Apache-2.0
"""The packet filter: the rules that run, and those that are stored for the next boot.

nftables and two generations of iptables may all filter at once. Rules that iptables keeps in nftables are taken from
iptables-save, which knows its extensions by name; older tables count beside them.
"""

from __future__ import annotations

from functools import partial

from msgspec import Struct, field
from msgspec.structs import replace

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown, derived
from donjon.audit.facts.iptables_rules import parse_iptables
from donjon.audit.facts.nft_rules import parse_nft
from donjon.audit.facts.ruleset import Chain, Ruleset

_IN_NFTABLES = "(nf_tables)"
_OTHERS_CHAINS = ("LIBVIRT_", "DOCKER", "f2b-", "CNI-", "KUBE-")
_OTHERS_TABLES = {"libvirt_network", "docker-bridges", "donjon", "donjon_agent", "firewalld"}


class Firewall(Struct, frozen=True):
    """The packet filter.

    `running` is absent on a host that has no tool for one; `stored_nft` and `stored_iptables` are what is loaded at
    boot; `firewalld`: what its running zones have and its stored ones do not, and the other way round.
    """

    running: Fact[Ruleset]
    stored_nft: Fact[Ruleset] = field(default_factory=lambda: Unknown("not read"))
    stored_iptables: Fact[Ruleset] = field(default_factory=lambda: Unknown("not read"))
    firewalld: Fact[tuple[str, ...]] = field(default_factory=lambda: Unknown("not read"))


def read_firewall(bundle: Bundle) -> Firewall:
    """From nft -j list ruleset, iptables-save and ip6tables-save, and the files of those who load rules."""
    return Firewall(
        _running(bundle), _stored_nft(bundle.output("nft-stored")), _stored_iptables(bundle), _firewalld(bundle)
    )


def _running(bundle: Bundle) -> Fact[Ruleset]:
    nft = derived(bundle.output("nft-ruleset"), parse_nft)
    tools = {family: bundle.output(name) for family, name in (("ip", "iptables"), ("ip6", "ip6tables"))}
    old = {family: bundle.output(f"{name}-legacy") for family, name in (("ip", "iptables"), ("ip6", "ip6tables"))}
    if isinstance(nft, Unknown):
        return nft
    for family, text in (*old.items(), *(tools.items() if isinstance(nft, Absent) else ())):
        if isinstance(parsed := derived(text, partial(parse_iptables, family=family)), Unknown):
            return parsed
    for text in old.values():
        if isinstance(text, Absent) or (isinstance(text, Known) and _IN_NFTABLES in text.value):
            return Unknown(f"{text.source}: there are older tables, and no tool that shows them")
    chains = list(nft.value) if isinstance(nft, Known) else []
    for family, text in tools.items():
        chains = _with_iptables(chains, text, old[family], family)
    if not chains and isinstance(nft, Absent) and all(isinstance(text, Absent) for text in tools.values()):
        return nft
    return Known(Ruleset(tuple(chains)), nft.source if isinstance(nft, Known) else "cmd/iptables")


def _with_iptables(chains: list[Chain], text: Fact[str], old: Fact[str], family: str) -> list[Chain]:
    """Chains of iptables in place of what nft shows of them; rules in older tables are added."""
    newer = derived(text, partial(parse_iptables, family=family))
    older = derived(old, partial(parse_iptables, family=family))
    shared = isinstance(text, Known) and _IN_NFTABLES in text.value
    if isinstance(newer, Known) and shared:
        replaced = {(chain.family, chain.table) for chain in newer.value}
        chains = [chain for chain in chains if (chain.family, chain.table) not in replaced]
    if isinstance(newer, Known):
        chains = [*chains, *newer.value]
    if isinstance(older, Known) and (shared or not (isinstance(newer, Known) and newer.value)):
        chains = [*chains, *(replace(chain, table=f"legacy {chain.table}") for chain in older.value)]
    return chains


def _stored_nft(text: Fact[str]) -> Fact[Ruleset]:
    if isinstance(text, Known) and not text.value.strip():
        return Absent(text.source)
    return derived(text, lambda stored: Ruleset(parse_nft(stored)))


def _stored_iptables(bundle: Bundle) -> Fact[Ruleset]:
    chains: list[Chain] = []
    seen: Fact[str] = Absent("/etc/iptables/rules.v4")
    for family, debian, red_hat in (
        ("ip", "/etc/iptables/rules.v4", "/etc/sysconfig/iptables"),
        ("ip6", "/etc/iptables/rules.v6", "/etc/sysconfig/ip6tables"),
    ):
        for path in (debian, red_hat):
            text = bundle.text(path)
            parsed = derived(text, partial(parse_iptables, family=family))
            if isinstance(parsed, Unknown):
                return parsed
            if isinstance(parsed, Known):
                seen = text
                chains += parsed.value
    return derived(seen, lambda _: Ruleset(tuple(chains)))


def _firewalld(bundle: Bundle) -> Fact[tuple[str, ...]]:
    running, stored = bundle.output("firewalld-running"), bundle.output("firewalld-stored")
    if isinstance(running, Known) and not running.value.strip():
        return Absent(running.source)
    if isinstance(stored, Known):
        return derived(running, lambda text: tuple(sorted(_zone_lines(text) ^ _zone_lines(stored.value))))
    return stored if isinstance(stored, Unknown) else Absent(stored.source)


def _zone_lines(text: str) -> set[str]:
    """Each line with its zone, without the interfaces, which the network manager adds."""
    lines, zone = set(), ""
    for line in text.splitlines():
        if line and not line[0].isspace():
            zone = line.split()[0]
        elif line.strip() and not line.lstrip().startswith(("interfaces:", "target: default")):
            lines.add(f"{zone}: {line.strip()}")
    return lines


def differences(running: Ruleset, stored: Ruleset) -> tuple[str, ...]:
    """Chains of the operator's own that differ; what libvirt, docker, firewalld and donjon make for themselves is not.

    A chain that is empty and accepts is the same as none.
    """
    here, there = (_operators_own(one) for one in (running, stored))
    return tuple(sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name)))


def has_own_rules(ruleset: Ruleset) -> bool:
    """Whether the operator made any."""
    return bool(_operators_own(ruleset))


def _operators_own(ruleset: Ruleset) -> dict[str, tuple[str, tuple[object, ...]]]:
    found: dict[str, tuple[str, tuple[object, ...]]] = {}
    for chain in ruleset.chains:
        if chain.table in _OTHERS_TABLES or chain.name.startswith(_OTHERS_CHAINS):
            continue
        rules = tuple(
            (rule.text, rule.conditions) for rule in chain.rules if not rule.target.startswith(_OTHERS_CHAINS)
        )
        if rules or chain.policy != "accept":
            found[chain.shown] = (chain.policy, rules)
    return found
