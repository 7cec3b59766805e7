# SPDX-License-Identifier: Apache-2.0
"""Rules of the area AGT about donjon's own listener, and about helpers that open a host's inside to browsers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from donjon.access.lint import is_everybody
from donjon.access.rules import listener_rules
from donjon.audit.control import Context, control
from donjon.audit.controls.reach import Surroundings, allowed_networks, is_allowed, is_local, reached_by, surroundings
from donjon.audit.fact import Absent, need
from donjon.audit.facts.agents import Listen
from donjon.audit.facts.host import Host
from donjon.audit.facts.listeners import Listener
from donjon.audit.profile import Network
from donjon.audit.verdict import Verdict, each, failed, not_applicable, passed, unknown
from donjon.errors import ConfigError

_HELPERS = ("websockify", "novnc", "cockpit-ws", "cockpit-tls", "ovirt-imageio", "vdsm", "dnsmasq")
_HELPERS_PORTS = {6080: "noVNC", 9090: "Cockpit", 54321: "oVirt's agent", 54322: "oVirt's image server"}


@control("AGT-09")
def donjon_follows_the_same_rule(host: Host, _: Context) -> Iterable[Verdict]:
    """What guards hosts is not itself a way into them."""
    if isinstance(host.agents.donjon, Absent):
        open_sockets = [
            one for one in need(host.listeners.all) if one.process == "donjon" and not is_local(one.address)
        ]
        if open_sockets:
            where = [f"{one.address}:{one.port}" for one in open_sockets]
            yield failed("donjon listens beyond loopback, and nothing says who may connect", sockets=where)
        else:
            yield not_applicable("donjon does not listen here")
        return
    yield from _listens(need(host.agents.donjon))


def _listens(listen: Listen) -> Iterator[Verdict]:
    allow = "not set" if listen.allow is None else listen.allow
    try:
        listener_rules(listen.bind, listen.allow, listen.deny)
    except ConfigError as error:
        yield failed(str(error), bind=listen.bind, allow=allow)
        return
    if is_local(listen.bind):
        yield passed("donjon listens on loopback alone", bind=listen.bind)
    elif ip_address(listen.bind).is_unspecified and is_everybody(listen.allow or ""):
        yield failed("donjon listens on all addresses and lets everybody in", bind=listen.bind, allow=allow)
    elif not listen.client_ca:
        yield failed("donjon listens beyond loopback and asks for no client certificate", bind=listen.bind, allow=allow)
    else:
        yield passed("donjon lets in whom its list names, with a certificate", bind=listen.bind, allow=allow)


@control("AGT-10")
def helpers_are_not_open(host: Host, context: Context) -> Iterable[Verdict]:
    """Proxies of consoles and web interfaces are reached by administrators alone."""
    helpers = [one for one in need(host.listeners.all) if _is_helper(one) and not is_local(one.address)]
    if not helpers:
        yield not_applicable("no proxy or web interface listens beyond loopback")
        return
    around = surroundings(host, context)
    allowed = allowed_networks(context, ("management",))
    yield from each(
        helpers,
        lambda one: _helper(one, around, allowed),
        subject=lambda one: f"{one.protocol}/{one.port} on {one.address}",
        none="no proxy or web interface listens beyond loopback",
    )


def _is_helper(one: Listener) -> bool:
    """A process that is known, or a port where the process could not be seen or is systemd's."""
    known = one.process.startswith(_HELPERS)
    return known or (one.protocol == "tcp" and one.port in _HELPERS_PORTS and one.process in {"", "systemd", "python3"})


def _helper(listener: Listener, around: Surroundings, allowed: list[Network]) -> Verdict:
    name = listener.process if listener.process.startswith(_HELPERS) else _HELPERS_PORTS[listener.port]
    if listener.device or not ip_address(listener.address).is_unspecified:
        return passed(f"{name} listens on {listener.device or listener.address} alone")
    reached = [one for one in reached_by(listener, around) if not is_allowed(one.origin, allowed)]
    sure = [one for one in reached if one.answer == "accepted"]
    if sure:
        say = f"{name} listens on all addresses and is reached from {sure[0].origin.who}"
        return failed(say, interface=sure[0].origin.interface, by=sure[0].by)
    if reached:
        return unknown(f"whether {name} is reached depends on {reached[0].by}")
    return passed(f"{name} listens on all addresses, and a packet filter keeps others out")
