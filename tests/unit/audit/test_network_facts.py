# SPDX-License-Identifier: Apache-2.0
"""The network and its packet filter as facts: what links are, what rules do, and that nothing odd becomes a pass."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.audit.bundle import Bundle, Manifest, Output
from donjon.audit.fact import Absent, Known, Unknown, need
from donjon.audit.facts.agents import Agents, read_agents
from donjon.audit.facts.certificates import Certificates, read_certificates
from donjon.audit.facts.firewall import Firewall, read_firewall
from donjon.audit.facts.iptables_rules import parse_iptables
from donjon.audit.facts.network import Link, Network, guest_bridges, read_network, route_to
from donjon.audit.facts.nft_rules import parse_nft
from donjon.audit.facts.ruleset import Chain, Packet, Ruleset, simulate

OLD_DOM0 = {
    "ip-addresses": (
        "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue \n    inet 127.0.0.1/8 scope host lo\n"
        "2: eth0: <BROADCAST,MULTICAST,UP> mtu 1500 qdisc mq master bond0 qlen 1000\n"
        "    link/ether 00:21:f6:00:00:01 brd ff\n"
        "3: bond0: <BROADCAST,UP> mtu 1500\n4: bond0.5@bond0: <BROADCAST,UP> mtu 1500\n"
        "5: 0a0b0c0d: <BROADCAST,UP> mtu 1500\n    inet 10.0.0.2 peer 10.0.0.1/24 scope global 0a0b0c0d\n"
        "6: vif1.0: <BROADCAST,UP> mtu 1500\n"
    ),
    "bridges": "bridge name\tbridge id\tSTP enabled\tinterfaces\n0a0b0c0d\t8000.0\tno\tbond0.5\n\t\t\t\tvif1.0\n",
    "vlans": "VLAN Dev name\t | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\nbond0.5        | 5  | bond0\n",
    "bonds": "/proc/net/bonding/bond0:Slave Interface: eth0\n",
}


def bundle(commands: dict[str, str]) -> Bundle:
    return Bundle(Manifest(), {name: Output(0, text) for name, text in commands.items()})


def test_an_old_dom0_tells_its_bridges_vlans_and_bonds() -> None:
    links = need(read_network(bundle(OLD_DOM0)).links)
    assert links["eth0"] == Link("eth0", "physical", "00:21:f6:00:00:01", True, master="bond0")
    assert (links["bond0"].kind, links["bond0"].bond_members) == ("bond", ("eth0",))
    assert (links["bond0.5"].kind, links["bond0.5"].vlan, links["bond0.5"].parent) == ("vlan", 5, "bond0")
    assert links["0a0b0c0d"].addresses == ("10.0.0.2/24",)
    assert guest_bridges(links) == ("0a0b0c0d",)


def test_without_the_list_of_bridges_the_links_of_an_old_host_are_unknown() -> None:
    broken = bundle(OLD_DOM0)
    broken.commands["bridges"] = Output(124, "")
    assert isinstance(read_network(broken).links, Unknown)


def test_a_port_of_a_bridge_that_filters_says_which_vlans_it_carries() -> None:
    addresses = [
        {"ifname": "br0", "linkinfo": {"info_kind": "bridge", "info_data": {"vlan_filtering": 1, "stp_state": 1}}},
        {"ifname": "vnet0", "master": "br0", "linkinfo": {"info_kind": "tun"}},
        {"ifname": "bond0.7", "link": "bond0", "linkinfo": {"info_kind": "vlan", "info_data": {"id": 7}}},
    ]
    vlans = [{"ifname": "vnet0", "vlans": [{"vlan": 5, "flags": ["PVID"]}, {"vlan": 10, "vlanEnd": 12}]}]
    seen = {"ip-addresses": json.dumps(addresses), "bridge-vlans": json.dumps(vlans)}
    links = need(read_network(bundle(seen)).links)
    assert (links["vnet0"].port_vlans, links["vnet0"].port_native) == ((5, 10, 11, 12), 5)
    assert (links["br0"].stp, links["bond0.7"].vlan, links["bond0.7"].parent) == (True, 7, "bond0")
    del seen["bridge-vlans"]
    assert isinstance(read_network(bundle(seen)).links, Unknown)


def test_a_route_is_the_longest_that_fits() -> None:
    text = "default via 10.0.0.254 dev eth0 \n10.0.0.0/24 dev eth0  scope link \n10.0.0.8/29 dev eth1 \n"
    text += "unreachable fe80::/64\n"
    routes = need(read_network(bundle({"ip-routes": text})).routes)
    assert [route_to(one, routes) for one in ("10.0.0.9", "10.0.0.1", "8.8.8.8", "2001:db8::1")] == [
        "eth1",
        "eth0",
        "eth0",
        "",
    ]


def ruleset(*rules: str) -> Ruleset:
    text = "*filter\n:INPUT DROP [0:0]\n:ONE - [0:0]\n" + "".join(f"-A {rule}\n" for rule in rules) + "COMMIT\n"
    return Ruleset(parse_iptables(text, "ip"))


PACKET = Packet("10.0.0.7", 22, "eth0")


@pytest.mark.parametrize(
    ("rules", "answer"),
    [
        (["INPUT -j ACCEPT"], "accepted"),
        (["INPUT -p tcp -m tcp --dport 1:21 -j ACCEPT"], "blocked"),
        (["INPUT -j ONE", "ONE -j RETURN", "ONE -j ACCEPT"], "blocked"),
        (["INPUT -g ONE", "INPUT -j ACCEPT"], "blocked"),
        (["INPUT -j ONE", "INPUT -j ACCEPT", "ONE -m recent --update -j DROP"], "unknown"),
        (["INPUT -m recent --update -j DROP", "INPUT -j DROP"], "blocked"),
        (["INPUT -m recent --update -j ACCEPT", "INPUT -j ACCEPT"], "accepted"),
        (["INPUT -j NFQUEUE --queue-num 0"], "unknown"),
        (["INPUT -j LOG --log-prefix x", "INPUT -j ACCEPT"], "accepted"),
        (["INPUT -d 10.0.0.1 -j ACCEPT"], "unknown"),
        (["INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP", "INPUT -j ACCEPT"], "accepted"),
        (["INPUT -p tcp -m tcp --tcp-flags ALL NONE -j ACCEPT"], "blocked"),
        (["INPUT -s 10.0.0.0/255.0.0.0 ! -i eth1+ -j ACCEPT"], "accepted"),
        (["INPUT -p tcp --dport ssh -j ACCEPT"], "unknown"),
        (["INPUT -j ONE", "ONE -j ONE", "INPUT -j ACCEPT"], "unknown"),
    ],
)
def test_a_packet_meets_the_rules_as_it_would_in_the_kernel(rules: list[str], answer: str) -> None:
    assert simulate(ruleset(*rules), PACKET).answer == answer


def test_every_base_chain_has_to_let_a_packet_through() -> None:
    accepts, drops = Chain("ip", "a", "in", "input"), Chain("inet", "b", "in", "input", "drop")
    other = Chain("ip6", "c", "in", "input", "drop")
    assert simulate(Ruleset((accepts, other)), PACKET).answer == "accepted"
    assert simulate(Ruleset((accepts, drops)), PACKET).answer == "blocked"
    assert simulate(Ruleset(), PACKET).answer == "accepted"


def test_a_set_that_fills_itself_is_not_taken_for_what_it_holds_now() -> None:
    things = [
        {"set": {"family": "ip", "table": "t", "name": "s", "flags": ["timeout"], "elem": ["10.0.0.7"]}},
        {"chain": {"family": "ip", "table": "t", "name": "c", "hook": "input", "policy": "drop"}},
        {
            "rule": {
                "family": "ip",
                "table": "t",
                "chain": "c",
                "expr": [
                    {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@s"}},
                    {"accept": None},
                ],
            }
        },
    ]
    assert simulate(Ruleset(parse_nft(json.dumps({"nftables": things}))), PACKET).answer == "unknown"


def test_no_tool_and_no_rules_is_absent_and_a_tool_that_failed_is_unknown() -> None:
    missing = dict.fromkeys(("nft-ruleset", "iptables", "ip6tables"), Output(127, ""))
    older = {"iptables-legacy": Output(0, ""), "ip6tables-legacy": Output(0, "")}
    assert isinstance(read_firewall(Bundle(Manifest(), missing | older)).running, Absent)
    failed = missing | older | {"iptables": Output(4, "", "Permission denied")}
    assert isinstance(read_firewall(Bundle(Manifest(), failed)).running, Unknown)


RULE = '{"nftables": [{"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [%s]}}]}'
PIECES = st.text(max_size=40) | st.sampled_from(
    [
        '{"nftables": [{"rule": {"family": "ip"}}]}',
        '{"nftables": [{"chain": {"family": "ip", "table": [], "name": {}}}]}',
        RULE % '{"vmap": {"key": 1, "data": "@x"}}',
        RULE % '{"match": {"left": 7}}, {}, 3',
        "*filter\n:INPUT DROP\n-A INPUT -s x/99 -p\nCOMMIT\n",
        "*filter\n-A NOWHERE -j ACCEPT\nCOMMIT\n",
        "*filter\n:INPUT\n-A INPUT --tcp-flags SYN\nCOMMIT\n",
        '[{"ifname": "a", "addr_info": [{"local": "x"}]}]',
        "# /x\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "(xen-api-server ((",
        "(xen-api-server (((x)) ()))",
        "{'manager_ip': ['a', 3], 'x'",
    ]
)
PROBES = (
    *("nft-ruleset", "iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy", "nft-stored", "ip-addresses"),
    *("firewalld-running", "firewalld-stored", "ip-routes", "forwarding", "bridges", "vlans", "bonds", "bridge-vlans"),
    *("net-devices", "certificates", "ovs-agent-server", "ovs-managers"),
)
FILES = ("/etc/iptables/rules.v4", "/etc/xen/xend-config.sxp", "/etc/donjon/server.toml", "/etc/ovs-agent/agent.ini")
PATTERNS = frozenset({"/etc/ovs-agent/*.ini", "/etc/ovs-agent/*.conf", "/etc/iptables/rules.v6", "/etc/sysconfig/*"})


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=3))
def test_hostile_text_is_read_or_unknown_and_never_more(pieces: list[str]) -> None:
    commands = {probe: Output(0, pieces[number % len(pieces)]) for number, probe in enumerate(PROBES)}
    files = {path: pieces[number % len(pieces)] for number, path in enumerate(FILES)}
    hostile = Bundle(Manifest(), commands, files, PATTERNS)
    for group, kind in (
        (read_network(hostile), Network),
        (read_firewall(hostile), Firewall),
        (read_agents(hostile), Agents),
        (read_certificates(hostile), Certificates),
    ):
        assert msgspec.json.decode(msgspec.json.encode(group), type=kind) == group
    running = read_firewall(hostile).running
    if isinstance(running, Known):
        assert simulate(running.value, PACKET).answer in {"accepted", "blocked", "unknown"}
