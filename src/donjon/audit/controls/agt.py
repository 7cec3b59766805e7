# SPDX-License-Identifier: Apache-2.0
"""Rules of the area AGT about Oracle VM's agent; the rest of the area is in agt_xend and agt_listeners."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_interface

from donjon.access.effective import Range, effective_ranges, networks_of, range_of, ranges_of
from donjon.access.lint import Finding, breadth, contradictions, grammar_findings, is_everybody
from donjon.access.rules import AccessRules, foreign_rules
from donjon.audit.control import Context, control
from donjon.audit.controls import agt_listeners, agt_xend  # noqa: F401 -- they register their rules
from donjon.audit.controls.reach import allowed_networks, is_allowed, reached_by, surroundings
from donjon.audit.fact import Absent, Unseen, need
from donjon.audit.facts.agents import OvsAgent
from donjon.audit.facts.host import Host
from donjon.audit.facts.listeners import Listener
from donjon.audit.facts.network import guest_bridges
from donjon.audit.facts.ruleset import Condition, Packet, Ruleset, base_chains, simulate
from donjon.audit.verdict import Severity, Verdict, failed, not_applicable, passed, unknown
from donjon.errors import ConfigError

_PORT = 8899


def _agent(host: Host) -> OvsAgent | None:
    """The agent's lists; None if there is no agent.

    Raises:
        Unseen: there is one, and its lists could not be seen.
    """
    if not isinstance(host.agents.ovs, Absent):
        return need(host.agents.ovs)
    if any(one.port == _PORT for one in need(host.listeners.all)):
        raise Unseen(f"ovs-agent listens, and its lists are not there: {host.agents.ovs.source}")
    return None


def _no_agent() -> Verdict:
    return not_applicable("there is no ovs-agent here")


def _rules(agent: OvsAgent) -> AccessRules:
    try:
        return foreign_rules(agent.allow, agent.deny)
    except ConfigError as error:
        raise Unseen(f"{error} (AGT-02)") from error


@control("AGT-01")
def agent_does_not_let_everybody_in(host: Host, _: Context) -> Iterable[Verdict]:
    """Whoever speaks to the agent is root on every host of the pool."""
    agent = _agent(host)
    if agent is None:
        yield _no_agent()
    elif agent.allow is None:
        say = "ovs-agent has no allow list, and lets everybody in"
        yield failed(say, allow="not set", deny=agent.deny or "", source=agent.source)
    else:
        _rules(agent)
        if is_everybody(agent.allow):
            yield failed("ovs-agent lets everybody in", allow=agent.allow, deny=agent.deny or "", source=agent.source)
        else:
            yield passed("ovs-agent lets in whom its list names", allow=agent.allow, source=agent.source)


@control("AGT-02")
def agent_lists_mean_what_they_say(host: Host, _: Context) -> Iterable[Verdict]:
    """An item that is read otherwise than it was meant opens the agent, or closes it."""
    agent = _agent(host)
    if agent is None:
        yield _no_agent()
        return
    try:
        rules = foreign_rules(agent.allow, agent.deny)
    except ConfigError as error:
        yield failed(str(error), allow=agent.allow or "", deny=agent.deny or "", source=agent.source)
        return
    yield from _told(grammar_findings(rules), "both lists mean what they say", agent)


@control("AGT-03")
def agent_lists_do_not_contradict(host: Host, context: Context) -> Iterable[Verdict]:
    """Manager and pool get in; nothing that is denied makes the rest pointless."""
    agent = _agent(host)
    if agent is None:
        yield _no_agent()
        return
    networks, owner = context.profile.networks, need(host.agents.owner, absent={})
    pool = [owner.get("manager_ip", ""), *owner.get("pool_member_ip_list", "").split(",")]
    needed = dict.fromkeys([*networks.managers, *networks.peers, *(one for one in pool if one)])
    yield from _told(contradictions(_rules(agent), needed), "manager and pool are let in", agent)


@control("AGT-04")
def agent_lets_in_few(host: Host, context: Context) -> Iterable[Verdict]:
    """Guests have no business with the agent, nor has most of the network."""
    agent = _agent(host)
    if agent is None:
        yield _no_agent()
        return
    links = need(host.network.links)
    connected = [ip_interface(text).network for name in guest_bridges(links) for text in links[name].addresses]
    guests = dict.fromkeys([*context.profile.networks.of("guest"), *connected])
    found = breadth(_rules(agent), guests, context.profile.limits.agent_addresses)
    yield from _told(found, "no guest and few others are let in", agent)


def _told(findings: Iterable[Finding], good: str, agent: OvsAgent) -> Iterator[Verdict]:
    """One verdict for each finding, by its item; or a pass."""
    evidence = {"allow": agent.allow if agent.allow is not None else "not set", "deny": agent.deny or ""}
    none = True
    for finding in findings:
        none = False
        severity = Severity.LOW if finding.minor else None
        yield failed(finding.message, finding.item, severity=severity, source=agent.source, lists=_lists(evidence))
    if none:
        yield passed(good, source=agent.source, lists=_lists(evidence))


def _lists(evidence: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in evidence.items())


@control("AGT-05")
def firewall_agrees_with_the_agent(host: Host, _: Context) -> Iterable[Verdict]:
    """What the agent denies, the packet filter does not bring to it."""
    agent = _agent(host)
    if agent is None:
        yield _no_agent()
        return
    rules = _rules(agent)
    links = need(host.network.links)
    ruleset = need(host.firewall.running, absent=Ruleset())
    interfaces = [link.name for link in links.values() if link.kind != "loopback" and link.addresses]
    if not any(base_chains(ruleset, family, ("input",)) for family in ("ip", "ip6")):
        yield failed("no packet filter stands before ovs-agent", severity=Severity.MEDIUM, source=agent.source)
        return
    doubt = ""
    for address in _witnesses(rules, ruleset):
        if rules.permits(address):
            continue
        for fate, interface in ((simulate(ruleset, Packet(address, _PORT, name)), name) for name in interfaces):
            if fate.answer == "accepted":
                say = f"the packet filter lets {address} in to ovs-agent, which its list denies"
                yield failed(say, address=address, interface=interface, by=fate.by)
                return
            doubt = doubt or (fate.by if fate.answer == "unknown" else "")
    if doubt:
        yield unknown(f"whether others get to ovs-agent depends on {doubt}")
    else:
        yield passed("the packet filter lets nobody in to ovs-agent whom its list denies", source=agent.source)


def _witnesses(rules: AccessRules, ruleset: Ruleset) -> list[str]:
    """One address out of every stretch that lists and packet filter cannot but treat alike."""
    items = (*rules.allow, *rules.deny)
    ranges = [*ranges_of(networks_of(items)), *effective_ranges(rules)]
    ranges += [one for chain in ruleset.chains for rule in chain.rules for one in _sources(rule.conditions)]
    edges = {(4, 0), (6, 0)} | {(one.version, one.first) for one in ranges}
    edges |= {(one.version, one.last + 1) for one in ranges}
    last = {4: 2**32 - 1, 6: 2**128 - 1}
    return [str(Range(version, start, start)) for version, start in sorted(edges) if start <= last[version]]


def _sources(conditions: Iterable[Condition]) -> Iterator[Range]:
    for one in conditions:
        if one.what == "source":
            yield from (range_of(value) for value in one.values)


@control("AGT-08")
def agent_has_the_intended_manager(host: Host, context: Context) -> Iterable[Verdict]:
    """A server nobody owns belongs to whoever discovers it first."""
    agent = _agent(host)
    if agent is None:
        yield _no_agent()
        return
    owner = need(host.agents.owner)
    manager = owner.get("manager_ip", "")
    managers = context.profile.networks.managers
    if manager and manager in managers:
        yield passed(f"{manager} manages this server", manager_uuid=owner.get("manager_uuid", ""))
    elif manager and managers:
        yield failed(
            f"{manager} manages this server, not {', '.join(managers)}", manager_uuid=owner.get("manager_uuid", "")
        )
    elif manager:
        yield unknown(f"{manager} manages this server, and the profile does not say who should")
    else:
        yield from _unowned(host, context)


def _unowned(host: Host, context: Context) -> Iterator[Verdict]:
    around = surroundings(host, context)
    allowed = allowed_networks(context, ("management",))
    listeners: list[Listener] = [one for one in need(host.listeners.all) if one.port == _PORT]
    reached = [one for socket in listeners for one in reached_by(socket, around) if not is_allowed(one.origin, allowed)]
    sure = [one for one in reached if one.answer == "accepted"]
    if sure:
        say = f"nobody owns this server, and its agent is reached from {sure[0].origin.who}"
        yield failed(say, interface=sure[0].origin.interface, by=sure[0].by)
    elif reached:
        yield unknown(f"nobody owns this server, and who reaches its agent depends on {reached[0].by}")
    else:
        yield not_applicable("nobody owns this server, and its agent is not reached from elsewhere")
