# SPDX-License-Identifier: Apache-2.0
"""Packet filters of real hosts in network namespaces: what is said of them, against connections that are made."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from datetime import date
from itertools import product

import msgspec
import pytest
from msgspec.structs import replace

from donjon.access.nftables import nft_ruleset
from donjon.access.rules import normalised, parse_rules
from donjon.audit.fact import Known, need
from donjon.audit.facts.host import Host, read_host
from donjon.audit.facts.ruleset import Packet, Ruleset, simulate
from donjon.audit.judge import judge
from donjon.audit.profile import Networks, Profile
from donjon.audit.verdict import Status
from tests.system.network_lab import NetworkLab, network_lab

pytestmark = [pytest.mark.system, pytest.mark.root]

PORTS = (22, 5901, 8899, 16514, 49152)
PEERS = ("10.77.0.2", "10.77.0.9", "10.77.1.2", "2001:db8:77::2", "2001:db8:77::9", "2001:db8:78::2")

NFTABLES = """
table inet filter {
    set admins { type ipv4_addr; flags interval; elements = { 10.77.0.0/29, 10.77.9.1-10.77.9.9 } }
    map known { type inet_service : verdict; elements = { 8899 : jump agents, 16514 : accept } }
    chain agents {
        ip6 saddr 2001:db8:77::9 return
        meta nfproto ipv6 accept
        ip saddr != 10.77.0.9 goto last
    }
    chain last { iifname "mgmt*" accept; drop; }
    chain input {
        type filter hook input priority filter; policy drop;
        iif "lo" accept
        ct state vmap { established : accept, related : accept, invalid : drop }
        tcp flags & (fin | syn | rst | ack) != syn drop
        meta l4proto ipv6-icmp accept
        ip saddr @admins tcp dport { 22, 49152-49215 } accept
        ip6 saddr 2001:db8:78::/64 tcp dport > 49000 accept
        tcp dport vmap @known
    }
}
table inet other {
    chain input { type filter hook input priority 10; tcp dport 16514 ip saddr 10.77.1.0/24 drop; }
}
table inet asleep {
    flags dormant
    chain input { type filter hook input priority 20; policy drop; }
}
"""

CHAIN = """
table inet filter {{
    chain input {{ type filter hook input priority filter; policy drop; {}; }}
}}
"""

IPTABLES = (
    "-P INPUT DROP",
    "-N AGENT",
    "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A INPUT -p tcp ! --syn -m state --state NEW -j DROP",
    "-A INPUT -p tcp -m multiport --dports 22,49152:49215 -i mgmt+ -j ACCEPT",
    "-A INPUT -p tcp --dport 8899 -j AGENT",
    "-A INPUT ! -i mgmt0 -p tcp --dport 5901 -m comment --comment 'a console, and why' -j ACCEPT",
)
OF_IPV4 = (
    "-A AGENT -m iprange --src-range 10.77.0.8-10.77.1.2 -j RETURN",
    "-A AGENT -s 10.77.0.0/16 -m addrtype --dst-type LOCAL -j ACCEPT",
    "-A INPUT -s 10.77.1.0/255.255.255.0 -p tcp --dport 16514 -j REJECT",
)
OF_IPV6 = ("-A INPUT -p ipv6-icmp -j ACCEPT", "-A AGENT -s 2001:db8:77::/64 -j ACCEPT")


@pytest.fixture
def lab() -> Iterator[NetworkLab]:
    with network_lab(f"donjon{os.getpid()}") as lab:
        lab.cable(
            "mgmt0",
            ["10.77.0.1/24", "2001:db8:77::1/64"],
            ["10.77.0.2/24", "10.77.0.9/24", "2001:db8:77::2/64", "2001:db8:77::9/64"],
        )
        lab.cable("front0", ["10.77.1.1/24", "2001:db8:78::1/64"], ["10.77.1.2/24", "2001:db8:78::2/64"])
        yield lab


def facts_of(lab: NetworkLab) -> Host:
    host = read_host(lab.collect())
    assert msgspec.json.decode(msgspec.json.encode(host), type=Host) == host
    return host


def as_simulated(host: Host, peer: str, port: int) -> str:
    front = peer.startswith(("10.77.1.", "2001:db8:78:"))
    packet = Packet(peer, port, "front0" if front else "mgmt0", destination=address_for(peer))
    return simulate(need(host.firewall.running, absent=Ruleset()), packet).answer


def address_for(peer: str) -> str:
    return peer[:-1] + "1"


def assert_simulation_is_true(lab: NetworkLab) -> None:
    host = facts_of(lab)
    cases = list(product(PEERS, PORTS))
    with lab.listening(*PORTS):
        real = {case: lab.connects(case[0], address_for(case[0]), case[1]) for case in cases}
    assert set(real.values()) == {"accepted", "blocked"}, "rules that say nothing"
    assert {case: as_simulated(host, *case) for case in cases} == real


def test_nftables_rules_do_what_is_said_of_them(lab: NetworkLab) -> None:
    lab.nft(NFTABLES)
    assert_simulation_is_true(lab)


@pytest.mark.parametrize("flavour", ["nft", "legacy"])
def test_iptables_rules_do_what_is_said_of_them(lab: NetworkLab, flavour: str) -> None:
    for family, own in (("iptables", OF_IPV4), ("ip6tables", OF_IPV6)):
        for rule in (*IPTABLES, *own):
            lab.run(f"{family}-{flavour}", *shlex.split(rule))
    assert_simulation_is_true(lab)


def test_rules_of_both_kinds_filter_together(lab: NetworkLab) -> None:
    lab.nft(NFTABLES)
    lab.run("iptables-legacy", "-A", "INPUT", "-p", "tcp", "--dport", "8899", "-j", "DROP")
    assert_simulation_is_true(lab)


@pytest.mark.parametrize(
    "rule",
    ["tcp dport 22 limit rate 1/second accept", "ip saddr . tcp dport { 10.77.0.2 . 22 } accept", "mark 0 accept"],
)
def test_what_is_not_understood_is_never_a_pass(lab: NetworkLab, rule: str) -> None:
    lab.nft(CHAIN.format(f"iifname front0 drop; {rule}"))
    host = facts_of(lab)
    assert as_simulated(host, "10.77.0.2", 22) == "unknown"
    assert as_simulated(host, "10.77.1.2", 22) == "blocked"


@pytest.mark.parametrize(
    ("allow", "deny"),
    [
        ("10.77.0.0/24, 2001:db8:77::/64", "10.77.0.9, 2001:db8:77::9"),
        ("*", "10.77.1.*, 2001:db8:78::2"),
        ("10.77.0.5/24", ""),
        ("2001:db8:78::2", "10.77.0.0/16"),
        ("", ""),
    ],
)
def test_the_nftables_twin_lets_in_whom_the_access_rules_permit(lab: NetworkLab, allow: str, deny: str) -> None:
    rules = parse_rules(allow, deny)
    lab.nft(nft_ruleset(rules, 8899))
    lab.nft(nft_ruleset(rules, 8899))
    with lab.listening(8899, 22):
        live = {peer: lab.connects(peer, address_for(peer), 8899) for peer in PEERS}
        assert lab.connects(PEERS[0], address_for(PEERS[0]), 22) == "accepted", "it is about one port"
    assert live == {peer: "accepted" if rules.permits(peer) else "blocked" for peer in PEERS}
    assert normalised(PEERS[0])[1] == ""


def test_a_host_with_a_guest_on_its_bridge_is_judged_by_what_is_really_there(lab: NetworkLab) -> None:
    lab.run("ip", "link", "add", "br0", "type", "bridge")
    lab.run("ip", "link", "set", "br0", "up")
    lab.run("ip", "addr", "add", "10.77.5.1/24", "dev", "br0")
    lab.guest_port("br0", "vnet0")
    with lab.listening(22, 16514):
        bad = statuses(facts_of(lab))
        lab.nft(
            CHAIN.format(
                "ct state established,related accept;"
                " ip saddr 10.77.0.0/24 iifname mgmt0 tcp dport { 22, 16514 } accept"
            )
        )
        good = statuses(facts_of(lab))
    assert [bad[one] for one in ("NET-01", "NET-02", "NET-04", "NET-05")] == [Status.FAIL] * 4
    assert [good[one] for one in ("NET-01", "NET-02", "NET-04")] == [Status.PASS] * 3
    assert good["NET-05"] is Status.FAIL, "the address itself is still there, which is a warning"


def statuses(host: Host) -> dict[str, Status]:
    """The worst that is said of each control; there is no libvirt in the namespace, and so no network of its."""
    host = replace(host, domains=replace(host.domains, networks=Known({}, "the test")))
    profile = Profile("lab", hosts="K", networks=Networks(management=("10.77.0.0/24",), guest=("10.77.5.0/24",)))
    results = judge([host], profile, date(2026, 11, 23), ("NET-01", "NET-02", "NET-04", "NET-05")).results
    order = (Status.FAIL, Status.UNKNOWN, Status.PASS, Status.NOT_APPLICABLE)
    return {
        control: min((one.status for one in results if one.control == control), key=order.index)
        for control in {one.control for one in results}
    }
