# SPDX-License-Identifier: Apache-2.0
"""Rules as `nft -j list ruleset` writes them. Source: libnftables-json(5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from donjon.audit.facts.ruleset import Chain, Condition, Rule, checked, of_flags

_FAMILIES = {"ip", "ip6", "inet"}
_PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "icmpv6": "ipv6-icmp"}
_FAMILY_NAMES = {"ipv4": "ip", "ipv6": "ip6"}
_KEYS = {
    "iif": "interface",
    "iifname": "interface",
    "oif": "output",
    "oifname": "output",
    "l4proto": "protocol",
    "nfproto": "family",
    "protocol": "family",
}
_FIELDS = {"saddr": "source", "daddr": "destination", "dport": "port", "protocol": "protocol", "nexthdr": "protocol"}
_GO_ON = {"counter", "log", "comment", "mangle", "notrack", "ct helper", "ct timeout", "secmark", "flow", "dup"}
_NO_PROTOCOL = {"th", "ether", "arp", "vlan"}
_VERDICTS = {"accept", "drop", "reject", "return", "continue"}
_JUMPS = {"jump", "goto"}

Object = dict[str, object]
Sets = Mapping[tuple[str, str, str], Object]
"""Sets and maps by family, table and name."""


class _Effect(NamedTuple):
    """A verdict and where it leads."""

    verdict: str
    target: str = ""


def parse_nft(text: str) -> tuple[Chain, ...]:
    """All chains of the families ip, ip6 and inet, but for those of tables that sleep.

    Which tables sleep nft 1.0 does not say in JSON; it follows in lines of "dormant FAMILY TABLE".

    Raises:
        ValueError: it is not what nft writes, or cut short.
    """
    text, *asleep = text.splitlines() or [""]
    try:
        entries = msgspec.json.decode(text, type=dict[str, list[dict[str, Object]]])["nftables"]
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(str(error)) from error
    things = [(kind, thing) for entry in entries for kind, thing in entry.items()]
    sets = {(*_names(one, "table"), str(one["name"])): one for kind, one in things if kind in {"set", "map"}}
    rules: dict[tuple[str, str, str], list[Rule]] = {}
    for kind, one in things:
        if kind == "rule":
            place = (*_names(one, "table"), str(one["chain"]))
            rules.setdefault(place, []).extend(_rules(one, place, sets))
    return tuple(
        _chain(one, rules)
        for kind, one in things
        if kind == "chain" and one["family"] in _FAMILIES and " ".join(["dormant", *_names(one, "table")]) not in asleep
    )


def _names(one: Object, table: str) -> tuple[str, str]:
    return str(one["family"]), str(one[table])


def _chain(one: Object, rules: Mapping[tuple[str, str, str], list[Rule]]) -> Chain:
    family, table = _names(one, "table")
    name, hook = str(one["name"]), str(one.get("hook", ""))
    return Chain(
        family, table, name, hook, str(one.get("policy", "accept")), tuple(rules.get((family, table, name), ()))
    )


def _rules(one: Object, place: tuple[str, str, str], sets: Sets) -> Iterator[Rule]:
    """A rule; several of them if it looks its verdict up in a map, one for each key."""
    statements = [statement for statement in _list(one.get("expr")) if isinstance(statement, dict)]
    where = f"{' '.join(place)} handle {one.get('handle', '?')}"
    text = msgspec.json.encode([_plain(one) for one in statements if "counter" not in one]).decode()
    conditions: list[Condition] = []
    effect = _Effect("continue")
    for statement in statements:
        key, body = next(iter(statement.items()), ("", None))
        if key == "vmap" and isinstance(body, dict):
            for looked_up, found in _looked_up(body, place, sets):
                yield Rule((*conditions, *looked_up), found.verdict, found.target, where, text)
            return
        if key == "match" and isinstance(body, dict):
            conditions += _match(body, place, sets)
        elif ends := _effect(key, body):
            effect = ends
        elif key not in _GO_ON:
            conditions.append(Condition("other", (_shown(key, body),)))
    yield Rule(tuple(conditions), effect.verdict, effect.target, where, text)


def _plain(statement: Object) -> Object:
    """Without what changes while it runs."""
    return {key: body for key, body in statement.items() if key not in {"counter", "quota"}}


def _effect(key: str, body: object) -> _Effect | None:
    """What a statement does in the end; None if it only restricts, or does nothing to the packet's way."""
    if key in _VERDICTS:
        return _Effect(key)
    if key in _JUMPS and isinstance(body, dict):
        return _Effect(key, str(body.get("target", "")))
    if key == "xt" and isinstance(body, dict) and body.get("type") == "match":
        return None
    known = key in _GO_ON or key in {"limit", "ct count", "set", "meter", "quota", "map"}
    return None if known else _Effect("other")


def _shown(key: str, body: object) -> str:
    return f"xt {body['name']}" if key == "xt" and isinstance(body, dict) and "name" in body else key


def _looked_up(body: Object, place: tuple[str, str, str], sets: Sets) -> Iterator[tuple[list[Condition], _Effect]]:
    """Conditions and verdict for each key of a verdict map; what is for all other keys comes last."""
    rest: list[_Effect] = []
    data = body.get("data")
    table = sets[*place[:2], data[1:]] if isinstance(data, str) else {}
    for pair in _list(table.get("elem") if isinstance(data, str) else data):
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], dict):
            raise ValueError("a verdict map without verdicts")
        effect = _effect(*next(iter(pair[1].items()))) or _Effect("other")
        if pair[0] == "*":
            rest.append(effect)
        else:
            yield _match({"left": body.get("key"), "right": pair[0], "op": "=="}, place, sets), effect
    yield from (([], effect) for effect in rest)


def _match(body: Object, place: tuple[str, str, str], sets: Sets) -> list[Condition]:
    """The condition, and what it needs to make sense: `tcp dport` is about TCP only."""
    needed, what, name = _left(body.get("left"))
    operator = body.get("op", "==")
    if (certain := _certain(body)) and operator in {"==", "!="}:
        return [replace(certain, negated=certain.negated != (operator == "!="))]
    values = _values(body.get("right"), place, sets)
    if what and operator in {">", "<", ">=", "<="} and what == "port" and values and len(values) == 1:
        return [*needed, checked(what, (_ports(str(operator), values[0]),))]
    if not what or values is None or operator not in {"==", "!=", "in"}:
        return [*needed, Condition("other", (name,))]
    condition = checked(what, tuple(_value(what, value) for value in values))
    return [*needed, Condition(condition.what, condition.values, operator == "!=")]


def _ports(operator: str, value: str) -> str:
    port = int(value)
    first, last = (port, 65535) if operator[0] == ">" else (0, port)
    if len(operator) == 1:
        first, last = (first + 1, last) if operator == ">" else (first, last - 1)
    return f"{first}-{last}"


def _left(left: object) -> tuple[list[Condition], str, str]:
    """What is compared: what must hold besides, the kind of condition or "", and its name for people."""
    match left:
        case {"meta": {"key": str(key)}}:
            return [], _KEYS.get(key, ""), f"meta {key}"
        case {"ct": {"key": str(key)}}:
            return [], "state" if key == "state" else "", f"ct {key}"
        case {"payload": {"protocol": "ip" | "ip6" as family, "field": str(field)}}:
            return [Condition("family", (family,))], _FIELDS.get(field, ""), f"{family} {field}"
        case {"payload": {"protocol": str(protocol), "field": str(field)}}:
            needed = [] if protocol in _NO_PROTOCOL else [Condition("protocol", (_PROTOCOLS.get(protocol, protocol),))]
            return needed, "port" if field == "dport" else "", f"{protocol} {field}"
    return [], "", ", ".join(left) if isinstance(left, dict) else "an expression"


def _certain(body: Object) -> Condition | None:
    """What can be told of any new connection to the host: its flags are SYN, its destination is local."""
    match body:
        case {"left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, mask]}, "right": right}:
            return of_flags(_flags(mask), _flags(right))
        case {"left": {"fib": {"result": "type", "flags": ["daddr"] | "daddr"}}, "right": "local"}:
            return Condition("certain", ("to the host",))
    return None


def _flags(value: object) -> set[str]:
    return {str(one) for one in _list(value.get("|") if isinstance(value, dict) else value)}


def _value(what: str, value: str) -> str:
    if what == "protocol":
        return _PROTOCOLS.get(value, value)
    return _FAMILY_NAMES.get(value, value) if what == "family" else value


def _values(right: object, place: tuple[str, str, str], sets: Sets) -> tuple[str, ...] | None:
    """All values of the right side; None if they cannot be known: a set that fills itself, something joined."""
    if isinstance(right, str) and right.startswith("@"):
        found = sets[*place[:2], right[1:]]
        if {"dynamic", "timeout"} & {str(flag) for flag in _list(found.get("flags"))}:
            return None
        right = found.get("elem", [])
    if isinstance(right, list):
        parts = [_values(one, place, sets) for one in right]
        return None if None in parts else tuple(value for part in parts if part is not None for value in part)
    if isinstance(right, dict):
        return _structured(right, place, sets)
    return (str(right),) if isinstance(right, (str, int)) and right != "*" and not isinstance(right, bool) else None


def _structured(right: Object, place: tuple[str, str, str], sets: Sets) -> tuple[str, ...] | None:
    match right:
        case {"prefix": {"addr": str(address), "len": int(length)}}:
            return (f"{address}/{length}",)
        case {"range": [first, last]}:
            return (f"{first}-{last}",)
        case {"set": list(members)}:
            return _values(members, place, sets)
        case {"elem": {"val": value}}:
            return _values(value, place, sets)
    return None


def _list(value: object) -> list[object]:
    """The members of a list, of an anonymous set, or the only one."""
    if isinstance(value, dict) and "set" in value:
        value = value["set"]
    if isinstance(value, list):
        return value
    return [] if value is None else [value]
