# SPDX-License-Identifier: Apache-2.0
"""Who may connect: the decision table, what the lists let in as a set, and what is said of questionable ones."""

from __future__ import annotations

import csv
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.access.effective import effective, effective_ranges
from donjon.access.lint import breadth, contradictions, first_difference, grammar_findings, is_everybody
from donjon.access.nftables import nft_ruleset
from donjon.access.rules import foreign_rules, listener_rules, normalised, parse_rules
from donjon.errors import ConfigError

TABLE = Path(__file__).parents[2] / "data" / "decisions" / "access_rules.csv"


def rows() -> list[object]:
    with TABLE.open(encoding="utf-8", newline="") as lines:
        return [pytest.param(*row[1:], id=row[0]) for row in list(csv.reader(lines, delimiter=";"))[1:]]


def test_the_decision_table_is_whole() -> None:
    assert len(rows()) == 64


@pytest.mark.parametrize(("allow", "deny", "peer", "permitted"), rows())
def test_the_decision_is_that_of_the_table(allow: str, deny: str, peer: str, permitted: str) -> None:
    if permitted == "error":
        with pytest.raises(ConfigError, match=r"cannot use the (allow|deny) list"):
            parse_rules(allow, deny)
    else:
        assert parse_rules(allow, deny).permits(peer) is (permitted == "yes")


@pytest.mark.parametrize(
    "item", ["*.*.*.*", "*.1.2.3", "10.0.0.**", "10..0.*", "1.2.3.4/-1", "fe80::1%", "::1%a b", "/8"]
)
def test_what_is_not_in_the_grammar_refuses_the_whole_list(item: str) -> None:
    with pytest.raises(ConfigError):
        parse_rules("*", f"10.0.0.1,{item}")


octets = st.integers(0, 3)
v4_items = st.builds("10.0.{}.{}".format, octets, octets) | st.builds("10.0.{}.*".format, octets)
v4_items |= st.builds("10.{}.{}.{}/{}".format, octets, octets, octets, st.sampled_from([8, 15, 23, 30, 31, 32]))
v6_items = st.builds("2001:db8::{}:{}/{}".format, octets, octets, st.sampled_from([0, 64, 111, 112, 127, 128]))
mapped = st.builds("::ffff:10.0.{}.{}/{}".format, octets, octets, st.sampled_from([90, 96, 126, 128]))
lists = st.lists(st.just("*") | v4_items | v6_items | mapped, max_size=4).map(",".join)
peers = st.builds("10.{}.{}.{}".format, octets, octets, octets)
peers |= peers.map("::ffff:{}".format) | st.builds("2001:db8::{}:{}".format, octets, octets)


@settings(max_examples=100, deadline=None)
@given(lists, lists, peers)
def test_a_peer_is_permitted_exactly_if_it_is_in_the_effective_set(allow: str, deny: str, peer: str) -> None:
    rules = parse_rules(allow, deny)
    address, _ = normalised(peer)
    assert rules.permits(peer) is any(address in one for one in effective(rules) if one.version == address.version)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20) | st.text("0123456789.:/*%,af ", max_size=20))
def test_any_text_is_a_list_or_a_clear_error(text: str) -> None:
    try:
        rules = parse_rules(text, text)
    except ConfigError:
        return
    assert not rules.permits("10.0.0.1"), "whatever is in both lists is denied"


def test_a_missing_list_means_everybody_only_to_a_foreign_agent() -> None:
    assert foreign_rules(None, None).permits("2001:db8::1")
    assert not foreign_rules("", None).permits("10.0.0.1")
    with pytest.raises(ConfigError, match="nobody said who may connect"):
        listener_rules("0.0.0.0", None, None)
    with pytest.raises(ConfigError, match="nobody said who may connect"):
        listener_rules("::", None, "10.0.0.1")
    with pytest.raises(ConfigError, match="it is no address"):
        listener_rules("localhost", None, None)


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1", "127.8.8.8", "::ffff:127.0.0.1"])
def test_a_listener_on_loopback_serves_loopback_alone(bind: str) -> None:
    rules = listener_rules(bind, None, None)
    assert [rules.permits(peer) for peer in ("127.0.0.1", "::1", "10.0.0.1")] == [True, True, False]


def test_a_listener_may_be_told_to_serve_others() -> None:
    assert listener_rules("0.0.0.0", "10.0.0.*", "10.0.0.9").permits("10.0.0.8")


def test_the_effective_set_is_shown_in_few_words() -> None:
    rules = parse_rules("10.0.0.0/24, 10.0.1.0/24, 2001:db8::/127", "10.0.0.128/25")
    assert [str(one) for one in effective_ranges(rules)] == [
        "10.0.0.0-10.0.0.127",
        "10.0.1.0-10.0.1.255",
        "2001:db8::-2001:db8::1",
    ]
    assert [str(one) for one in effective(rules)] == ["10.0.0.0/25", "10.0.1.0/24", "2001:db8::/127"]


def test_questionable_items_are_pointed_out() -> None:
    rules = parse_rules("219.142.73.5/24, 10.1.*, ::ffff:10.0.0.1, 10.0.0.0/8", "10.1.*.*")
    assert [finding.item for finding in grammar_findings(rules)] == ["219.142.73.5/24", "10.1.*", "::ffff:10.0.0.1"]


@pytest.mark.parametrize(
    ("allow", "deny", "needed", "said"),
    [
        ("", "", [], ["the allow list is empty and locks everybody out"]),
        ("10.0.0.1", "10.0.0.0/24", [], ["the deny list covers all that is allowed"]),
        ("10.0.0.1", "", ["10.0.0.2"], ["10.0.0.2 is needed and not let in"]),
        ("10.0.0.1", "192.168.0.1", [], ["deny: 192.168.0.1 takes nothing away from what is allowed"]),
        ("10.0.0.0/24", "10.0.0.9", ["10.0.0.8"], []),
    ],
)
def test_contradictions_are_found(allow: str, deny: str, needed: list[str], said: list[str]) -> None:
    assert [finding.message for finding in contradictions(parse_rules(allow, deny), needed)] == said


def test_guests_and_large_sets_are_found() -> None:
    rules = parse_rules("10.0.0.0/23", "10.0.0.0/25")
    assert [one.item for one in breadth(rules, [ip_network("10.0.1.64/26"), ip_network("10.0.0.0/25")], 384)] == [
        "10.0.1.64/26"
    ]
    assert [one.message for one in breadth(rules, [], 383)] == ["384 addresses are let in, more than 383"]


def test_the_first_address_that_a_firewall_admits_and_the_rules_deny() -> None:
    rules = parse_rules("10.0.0.0/24", "10.0.0.7")
    assert first_difference(rules, [ip_network("10.0.0.0/28")]) == "10.0.0.7"
    assert first_difference(rules, [ip_network("10.0.0.8/29")]) == ""


@pytest.mark.parametrize("text", ["*", "0.0.0.0/0", "0.0.0.0/1,128.0.0.0/1", "10.0.0.1,::/0"])
def test_everybody_can_be_written_in_many_ways(text: str) -> None:
    assert is_everybody(text)
    assert not is_everybody("10.0.0.0/8,2001:db8::/32")


def test_the_nftables_twin_keeps_zones_apart() -> None:
    text = nft_ruleset(parse_rules("10.0.0.0/25,10.0.0.128/25,fe80::1%eth0", "10.0.0.7"), 8899)
    assert "set allow4 { type ipv4_addr; flags interval; elements = { 10.0.0.0-10.0.0.255 }; }" in text
    assert "set allow6 { type ipv6_addr; flags interval; }" in text
    assert 'iifname "eth0" ip6 saddr fe80::1 tcp dport 8899 accept' in text
    assert text.index("@deny4") < text.index("@allow4")


def test_a_peer_that_is_no_address_is_an_error_and_never_a_decision() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        parse_rules("*", "").permits("localhost")
    assert normalised("::ffff:1.2.3.4") == (IPv4Address("1.2.3.4"), "")
    assert normalised("fe80::1%eth0") == (IPv6Address("fe80::1"), "eth0")
