# SPDX-License-Identifier: Apache-2.0
"""Packet filter rules in one model, whoever made them, and what they do with the first packet of a connection.

What is not understood is kept as a condition that may hold or not: the answer is then unknown, unless it is the same
either way. A packet gets in only if every base chain at the hooks it passes lets it through. Sources: nft(8), "Chains"
and "Verdict statement"; iptables(8).
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address, ip_network

from msgspec import Struct

_DEEPEST = 16
"""Jumps within jumps that nftables allows."""

ACCEPT, DROP, FALL, DOUBT = "accept", "drop", "fall through", "doubt"

Outcomes = dict[str, str]
"""What may become of a packet -> the rule that does it; DOUBT -> the first rule of which it cannot be told."""


class Condition(Struct, frozen=True):
    """What a packet must have: one of `values`.

    `what`: family, protocol, source, destination, port, interface, output, state; "certain" holds for whatever is
    asked about here, "other" is not understood, and both are named in `values`. Addresses are "a", "a/len" or "a-b",
    ports "22" or "22-25", interfaces may end with "*".
    """

    what: str
    values: tuple[str, ...]
    negated: bool = False


class Rule(Struct, frozen=True):
    """A rule. `verdict`: accept, drop, reject, jump, goto, return, continue, or "other" if it is not understood.

    `place` says where it is, for people; `text` is what it says, without counters, to compare rules by.
    """

    conditions: tuple[Condition, ...]
    verdict: str
    target: str = ""
    place: str = ""
    text: str = ""


class Chain(Struct, frozen=True):
    """A chain; a base chain has a hook. `family`: ip, ip6 or inet (both)."""

    family: str
    table: str
    name: str
    hook: str = ""
    policy: str = "accept"
    rules: tuple[Rule, ...] = ()

    @property
    def shown(self) -> str:
        """As people name it: "inet filter input"."""
        return f"{self.family} {self.table} {self.name}"


class Ruleset(Struct, frozen=True):
    """All chains of a host."""

    chains: tuple[Chain, ...] = ()


class Packet(Struct, frozen=True):
    """The first packet of a connection, to the host itself or through it to `output`.

    `destination` "" is any of the host's addresses.
    """

    source: str
    port: int
    interface: str
    protocol: str = "tcp"
    destination: str = ""
    output: str = ""

    @property
    def family(self) -> str:
        """As nftables calls it: ip or ip6."""
        return "ip6" if ":" in self.source else "ip"


class Fate(Struct, frozen=True):
    """What becomes of a packet: "accepted", "blocked" or "unknown", and the rule or policy that decides."""

    answer: str
    by: str


def simulate(ruleset: Ruleset, packet: Packet) -> Fate:
    """What becomes of a packet that arrives at the host."""
    doubt = ""
    accepted_by = "no rule"
    last = "forward" if packet.output else "input"
    for chain in base_chains(ruleset, packet.family, ("prerouting", last)):
        outcomes = _base(ruleset, chain, packet)
        if ACCEPT not in outcomes:
            return Fate("blocked", outcomes[DROP])
        if DROP in outcomes:
            doubt = doubt or outcomes[DOUBT]
        elif chain.hook == last:
            accepted_by = outcomes[ACCEPT]
    return Fate("unknown", doubt) if doubt else Fate("accepted", accepted_by)


def base_chains(ruleset: Ruleset, family: str, hooks: tuple[str, ...]) -> list[Chain]:
    """The chains that packets of a family meet at these hooks."""
    return [chain for chain in ruleset.chains if chain.hook in hooks and chain.family in {family, "inet"}]


def _base(ruleset: Ruleset, chain: Chain, packet: Packet) -> Outcomes:
    outcomes = _walk(ruleset, chain, packet, 0)
    if FALL in outcomes:
        del outcomes[FALL]
        outcomes.setdefault(ACCEPT if chain.policy == ACCEPT else DROP, f"policy of {chain.shown}")
    return outcomes


def _walk(ruleset: Ruleset, chain: Chain, packet: Packet, depth: int) -> Outcomes:
    """All that may become of a packet in a chain; to fall through is to come back to whoever jumped here."""
    found: Outcomes = {}
    for rule in chain.rules:
        holds = _all_hold(rule, packet)
        if holds is False:
            continue
        ends = _effect(ruleset, chain, rule, packet, depth)
        goes_on = ends.pop("next rule", None) is not None
        if holds is None:
            found.setdefault(DOUBT, _not_understood(rule))
        for outcome, by in ends.items():
            found.setdefault(outcome, by)
        if holds and not goes_on:
            return found
    return found | {FALL: ""}


def _effect(ruleset: Ruleset, chain: Chain, rule: Rule, packet: Packet, depth: int) -> Outcomes:
    """What a rule does if its conditions hold."""
    match rule.verdict:
        case "continue":
            return {"next rule": ""}
        case "accept":
            return {ACCEPT: rule.place}
        case "drop" | "reject":
            return {DROP: rule.place}
        case "return":
            return {FALL: ""}
        case "jump" | "goto":
            target = next((one for one in ruleset.chains if _is_target(one, chain, rule)), None)
            if target is not None and depth < _DEEPEST:
                inside = _walk(ruleset, target, packet, depth + 1)
                if rule.verdict == "jump" and FALL in inside:
                    del inside[FALL]
                    inside["next rule"] = ""
                return inside
    return {DOUBT: _not_understood(rule), ACCEPT: rule.place, DROP: rule.place, "next rule": ""}


def _not_understood(rule: Rule) -> str:
    """The rule, and what in it cannot be told."""
    names = [value for condition in rule.conditions if condition.what == "other" for value in condition.values]
    return f"{rule.place} ({', '.join(names) or 'cannot be told'})"


def _is_target(one: Chain, chain: Chain, rule: Rule) -> bool:
    return (one.family, one.table, one.name) == (chain.family, chain.table, rule.target)


def _all_hold(rule: Rule, packet: Packet) -> bool | None:
    """Whether all conditions hold; None: perhaps."""
    answers = {holds(condition, packet) for condition in rule.conditions}
    if False in answers:
        return False
    return None if None in answers else True


def holds(condition: Condition, packet: Packet) -> bool | None:
    """Whether a condition holds for a packet; None: perhaps."""
    answer = _compared(condition, packet)
    return answer if answer is None or not condition.negated else not answer


def _compared(condition: Condition, packet: Packet) -> bool | None:
    what, values = condition.what, condition.values
    words = {"family": packet.family, "protocol": packet.protocol, "state": "new"}
    if what in words:
        return words[what] in values
    if address := {"source": packet.source, "destination": packet.destination}.get(what):
        return any(_in_addresses(value, address) for value in values)
    if what == "port":
        return any(_in_ports(value, packet.port) for value in values)
    if interface := {"interface": packet.interface, "output": packet.output}.get(what):
        return any(_is_interface(value, interface) for value in values)
    return True if what == "certain" else None


@lru_cache(maxsize=4096)
def _in_addresses(value: str, address: str) -> bool:
    one = ip_address(address)
    first, dash, last = value.partition("-")
    if not dash:
        network = ip_network(value, strict=False)
        return one.version == network.version and one in network
    low, high = ip_address(first), ip_address(last)
    return one.version == low.version == high.version and int(low) <= int(one) <= int(high)


def _in_ports(value: str, port: int) -> bool:
    first, _, last = value.partition("-")
    return int(first) <= port <= int(last or first)


def _is_interface(value: str, name: str) -> bool:
    return name.startswith(value[:-1]) if value.endswith("*") else name == value


def checked(what: str, values: tuple[str, ...]) -> Condition:
    """A condition whose values can be compared; "other" if one of them makes no sense."""
    try:
        for value in values:
            if what in {"source", "destination"}:
                _in_addresses(value, "::")
            elif what == "port":
                _in_ports(value, 0)
    except ValueError:
        return Condition("other", (f"{what} {', '.join(values)}",))
    return Condition(what, values)


def of_flags(mask: set[str], value: set[str]) -> Condition:
    """Whether those flags of `mask` that are set are just those of `value`; of a new connection, SYN alone is set."""
    return Condition("certain", (f"{', '.join(sorted(mask))}: {', '.join(sorted(value))}",), mask & {"syn"} != value)
