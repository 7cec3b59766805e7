# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area AGT: who may speak to Oracle VM's agent, to xend, to donjon, and to proxies of consoles.

How ovs-agent keeps its lists is not published: a list is only changed where it stands in a file already. Source of
xend's settings: Xen 4.4.4, tools/examples/xend-config.sxp.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from ipaddress import ip_address, ip_network

from donjon.access.effective import networks_of, ranges_of
from donjon.access.lint import is_everybody
from donjon.access.rules import AccessRules, Item, foreign_rules, parse_list
from donjon.audit.controls.reach import is_local
from donjon.audit.controls.segments import uplinks_of
from donjon.audit.fact import Unseen, need
from donjon.audit.facts.agents import OvsAgent
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.errors import ConfigError
from donjon.harden.change import Chain, Change, Edit, fix
from donjon.harden.editors import Rewrite, expressions, in_section
from donjon.harden.fixes.sources import only, served_to_guests, through, told
from donjon.harden.services import restarted

_PORT = 8899
_XEND_CONF = "/etc/xen/xend-config.sxp"
_SWITCHES = {"tcp/8000": "xend-http-server", "tcp/8006": "xend-tcp-xmlrpc-server"}
_API = re.compile(r"(?m)^([ \t]*\(xen-api-server[ \t]+)\((.*)\)\)[ \t]*$")
_CONFIGURE = "answer `service ovs-agent configure` with allow={}"


@fix("AGT-01")
def agent_lets_in_managers(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """ovs-agent lets in manager and pool alone."""
    return _short_list(host, profile)


@fix("AGT-02")
def agent_lists_in_plain_words(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """The lists of ovs-agent say the same as now, each item in its plainest form; what makes no sense stays."""
    agent = need(host.agents.ovs)
    for name, text in (("allow", agent.allow), ("deny", agent.deny)):
        try:
            _plain(text or "", name)
        except ConfigError as error:
            raise Unseen(f"{error}; what was meant, only its author knows") from error
    wanted = [name for name, text in (("allow", agent.allow), ("deny", agent.deny)) if text is not None]
    edits = tuple(Edit(_list_file(agent), _listed(name, partial(_plain, name=name))) for name in wanted)
    return Change("the lists of ovs-agent say what they mean", edits, activate=(restarted("ovs-agent"),))


@fix("AGT-04")
def agent_lets_in_few(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """ovs-agent lets in manager and pool alone: no guest, and not the rest of the network."""
    return _short_list(host, profile)


def _short_list(host: Host, profile: Profile) -> Change:
    agent = need(host.agents.ovs)
    wanted = ",".join(_pool(host, profile))
    if agent.allow is None or not agent.source.startswith("/"):
        raise Unseen(_CONFIGURE.format(wanted))
    return Change(
        f"ovs-agent lets in {wanted} alone",
        (Edit(agent.source, _listed("allow", lambda _: wanted)),),
        activate=(restarted("ovs-agent"),),
    )


def _pool(host: Host, profile: Profile) -> list[str]:
    """Addresses of manager and pool: by the profile, and by what the agent itself knows of its pool."""
    if not profile.networks.managers:
        raise Unseen("the profile names no managers")
    owner = need(host.agents.owner, absent={})
    known = [owner.get("manager_ip", ""), *owner.get("pool_member_ip_list", "").split(",")]
    found = dict.fromkeys([*profile.networks.managers, *profile.networks.peers, *(one for one in known if one)])
    return [str(_address(text)) for text in found]


def _address(text: str) -> object:
    try:
        return ip_address(text)
    except ValueError as error:
        raise Unseen(f"{text!r} is no address") from error


def _list_file(agent: OvsAgent) -> str:
    if not agent.source.startswith("/"):
        raise Unseen("the lists of ovs-agent are in its database, which only its own program may change")
    return agent.source


def _listed(key: str, change: Callable[[str], str]) -> Rewrite:
    """The list of this key, wherever it stands in an ini file; quotes around it stay. The rewrite raises ValueError."""
    setting = re.compile(rf"(?im)^([ \t]*{key}[ \t]*[=:][ \t]*)(['\"]?)(.*?)(\2[ \t]*)$")

    def rewrite(text: str) -> str:
        if not setting.search(text):
            raise ValueError(f"there is no {key} in it")
        return setting.sub(lambda found: f"{found[1]}{found[2]}{change(found[3])}{found[4]}", text)

    return rewrite


def _plain(text: str, name: str) -> str:
    return ",".join(_word(item) for item in parse_list(text, name))


def _word(item: Item) -> str:
    if item.text == "*" or item.zone:
        return item.text
    (network,) = item.networks
    return str(network.network_address) if network.num_addresses == 1 else str(network)


@fix("AGT-05")
def firewall_as_the_list(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """The packet filter lets in to ovs-agent whom its list lets in, and nobody else."""
    agent = need(host.agents.ovs)
    try:
        rules = foreign_rules(agent.allow, agent.deny)
    except ConfigError as error:
        raise Unseen(f"{error} (AGT-02)") from error
    if agent.allow is None or is_everybody(agent.allow):
        raise Unseen("the list lets everybody in (AGT-01): shorten it first")
    return Change(
        "the packet filter lets in to ovs-agent whom its list lets in",
        (Chain("AGT-05", tuple(twin(rules, _PORT))),),
    )


def twin(rules: AccessRules, port: int) -> Iterator[str]:
    """Access rules as nft's, without sets that have a name; as `donjon.access.nftables`."""
    for items, verdict in ((rules.deny, "drop"), (rules.allow, "accept")):
        yield from _lookups(items, f"tcp dport {port} {verdict}")
    yield f"tcp dport {port} drop"


def _lookups(items: Iterable[Item], end: str) -> Iterator[str]:
    items = tuple(items)
    ranges = ranges_of(networks_of(item for item in items if not item.zone))
    for version, family in ((4, "ip"), (6, "ip6")):
        addresses = ", ".join(str(one) for one in ranges if one.version == version)
        if addresses:
            yield f"{family} saddr {{ {addresses} }} {end}"
    for item in items:
        if item.zone:
            yield f"{through(item.zone)} ip6 saddr {item.networks[0].network_address} {end}"


@fix("AGT-06")
def relocation_from_peers(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """VMs come to xend from the hosts of the pool: their addresses, with every dot escaped and both ends tied."""
    need(host.agents.xend)
    peers = [ip_network(text, strict=False) for text in profile.networks.peers]
    if not peers or any(one.version != 4 or one.num_addresses != 1 for one in peers):
        raise Unseen("the profile does not name each host of the pool, as a peer with one IPv4 address")
    patterns = [f"^{one.network_address}$".replace(".", r"\\.") for one in peers]
    value = f"'{' '.join(patterns)}'"
    return Change(
        "xend takes VMs in from the hosts of the pool alone",
        (Edit(_XEND_CONF, expressions({"xend-relocation-hosts-allow": value})),),
        activate=(restarted("xend"),),
    )


@fix("AGT-07")
def xend_on_its_socket(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Interfaces of xend that ask nobody who comes are off; its unix socket stays."""
    need(host.agents.xend)
    switch = _SWITCHES.get(result.subject)
    rewrite = expressions({switch: "no"}) if switch else _without_server(result.subject)
    return Change(
        f"xend does not listen on {result.subject}", (Edit(_XEND_CONF, rewrite),), activate=(restarted("xend"),)
    )


def _without_server(where: str) -> Rewrite:
    """Without one entry of xen-api-server, which must stand in one line. The rewrite raises ValueError."""
    entry = re.compile(rf"[ \t]*\({re.escape(where)}(?:[ \t][^()]*)?\)")

    def rewrite(text: str) -> str:
        found = _API.search(text)
        left = entry.sub("", found[2]).strip() if found else ""
        if not found or f"({where}" in left:
            raise ValueError(f"xen-api-server has no plain entry for {where} in one line")
        left = left or "(unix)"
        return f"{text[: found.start()]}{found[1]}({left})){text[found.end() :]}"

    return rewrite


@fix("AGT-09")
def donjon_on_loopback(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """The server of donjon itself listens on loopback."""
    need(host.agents.donjon)
    return Change(
        "donjon's server listens on loopback only",
        (Edit("/etc/donjon/server.toml", _bound_to_loopback),),
        note="in force when it is started the next time; reach it through ssh",
    )


def _bound_to_loopback(text: str) -> str:
    if not re.search(r"(?m)^\[listen\]\s*$", text):
        raise ValueError("it has no section [listen] in a form that donjon changes")
    return in_section("listen", {"bind": '"127.0.0.1"'})(text)


@fix("AGT-10")
def helpers_for_administrators(result: Result, host: Host, profile: Profile) -> Change | None:
    """A proxy or web interface is reached by administrators; what serves guests, on bridges of guests, too."""
    place, _, address = result.subject.partition(" on ")
    if not re.fullmatch(r"(tcp|udp)/[0-9]{1,5}", place) or is_local(address):
        return None
    packets = place.replace("/", " dport ")
    serving = [one for one in need(host.listeners.all) if f"{one.protocol}/{one.port}" == place]
    names = sorted({one.process for one in serving} - {""}) or ["what listens"]
    rules = only(told(profile, ("management",), names[0]), packets)
    links = need(host.network.links)
    inner = [link.name for link in links.values() if link.kind == "bridge" and not uplinks_of(links, link.name)]
    bridges = [f"{through(name)} {packets} accept" for name in sorted(inner) if "dnsmasq" in names]
    return Change(
        f"{', '.join(names)} on {place} is reached by administrators alone",
        (Chain(f"AGT-10 {place}", (*served_to_guests(host), *bridges, *rules)),),
    )
