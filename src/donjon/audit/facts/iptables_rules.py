# SPDX-License-Identifier: Apache-2.0
"""Rules as iptables-save and ip6tables-save write them. Source: iptables-save(8), iptables-extensions(8)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from msgspec.structs import replace

from donjon.audit.facts.ruleset import Chain, Condition, Rule, checked, of_flags

_HOOKS = {"PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward"}
_TABLES = {"raw", "mangle", "nat", "filter", "security"}
_VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "reject", "RETURN": "return"}
_GO_ON = {
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNMARK",
    "CT",
    "DSCP",
    "LOG",
    "MARK",
    "NFLOG",
    "NOTRACK",
    "SET",
    "TCPMSS",
    "TOS",
    "TRACE",
    "TTL",
    "ULOG",
}
_UNDERSTOOD = {"tcp", "udp", "comment", "state", "conntrack", "multiport", "iprange", "addrtype"}
_OPTIONS = {
    "-s": "source",
    "--src-range": "source",
    "-d": "destination",
    "--dst-range": "destination",
    "-i": "interface",
    "-o": "output",
    "-p": "protocol",
    "--dport": "port",
    "--dports": "port",
    "--state": "state",
    "--ctstate": "state",
}
_PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "icmpv6": "ipv6-icmp"}
_ALL_FLAGS = {"ALL": "FIN,SYN,RST,PSH,ACK,URG", "NONE": ""}


def parse_iptables(text: str, family: str) -> tuple[Chain, ...]:
    """All chains of all tables; `family` is ip or ip6.

    Raises:
        ValueError: it is cut short, or not what iptables-save writes.
    """
    chains: dict[tuple[str, str], Chain] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith("COMMIT"):
            table = ""
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            hook = _HOOKS.get(name, "") if table in _TABLES else ""
            chains[table, name] = Chain(family, table, name, hook, _VERDICTS.get(policy, "accept"))
        elif line.startswith(("-A", "[")):
            _append(chains, table, line)
    if table:
        raise ValueError(f"table {table} is cut short")
    return tuple(chains.values())


def _append(chains: dict[tuple[str, str], Chain], table: str, line: str) -> None:
    text = line[line.index("-A ") :]
    words = shlex.split(text)
    chain = chains[table, words[1]]
    conditions, jump = [], ("", "")
    for option, arguments, negated in _options(words[2:]):
        if option in {"-j", "-g"}:
            jump = (option, arguments[0])
            break
        if condition := _condition(option, arguments):
            conditions.append(replace(condition, negated=condition.negated != negated))
    verdict, target = _verdict(*jump, known={name for place, name in chains if place == table})
    rule = Rule(tuple(conditions), verdict, target, f"{chain.shown} rule {len(chain.rules) + 1}", text)
    chains[table, words[1]] = replace(chain, rules=(*chain.rules, rule))


def _options(words: list[str]) -> Iterator[tuple[str, list[str], bool]]:
    """Options with their arguments, and whether a "!" is before them."""
    option, arguments, negated, negate_next = "", list[str](), False, False
    for word in words:
        if word == "!":
            negate_next = True
        elif word.startswith("-") and len(word) > 1:
            if option:
                yield option, arguments, negated
            option, arguments, negated, negate_next = word, [], negate_next, False
        else:
            arguments.append(word)
    if option:
        yield option, arguments, negated


def _condition(option: str, arguments: list[str]) -> Condition | None:
    """None for what restricts nothing: names of modules, comments."""
    if (option == "-m" and arguments[0] in _UNDERSTOOD) or option == "--comment":
        return None
    if option == "--tcp-flags":
        mask, value = ({flag.lower() for flag in _ALL_FLAGS.get(one, one).split(",") if flag} for one in arguments)
        return of_flags(mask, value)
    if option == "--syn" or (option, arguments) == ("--dst-type", ["LOCAL"]):
        return Condition("certain", (option,))
    what = _OPTIONS.get(option)
    if what is None:
        return Condition("other", (" ".join([option, *arguments]),))
    if (what, arguments) == ("protocol", ["all"]):
        return None
    return checked(what, tuple(_value(what, value) for value in arguments[0].split(",")))


def _value(what: str, value: str) -> str:
    match what:
        case "interface" | "output":
            return value[:-1] + "*" if value.endswith("+") else value
        case "protocol":
            return _PROTOCOLS.get(value, value)
        case "port":
            first, colon, last = value.partition(":")
            return f"{first or 0}-{last or 65535}" if colon else first
        case "state":
            return value.lower()
    return value


def _verdict(option: str, target: str, known: set[str]) -> tuple[str, str]:
    if target in known:
        return ("goto" if option == "-g" else "jump"), target
    if not target or target in _GO_ON:
        return "continue", ""
    return _VERDICTS.get(target, "other"), ""
