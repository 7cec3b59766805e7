# SPDX-License-Identifier: Apache-2.0
"""Rules of the area TLS about agents: xend's relocation, Oracle VM's agent, the control plane of Open vSwitch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address

from donjon.audit.control import Context, control
from donjon.audit.controls.reach import is_local
from donjon.audit.fact import Absent, Known, need
from donjon.audit.facts.certificates import Certificate
from donjon.audit.facts.host import Host
from donjon.audit.verdict import Verdict, failed, not_applicable, passed, unknown

_AGENT_PORT = 8899
_OVSDB_PORT = 6640
_AGENT_CERTIFICATE = "/etc/ovs-agent/cert/certificate.pem"
_LEAST_RSA = 2048
_TARGET = re.compile(r"(p?tcp|p?ssl|unix|punix):(.*)")


@control("TLS-06")
def relocation_is_encrypted(host: Host, _: Context) -> Iterable[Verdict]:
    """Relocation over TLS does not close the clear port: both have to be told."""
    if isinstance(host.agents.xend, Absent):
        yield not_applicable("there is no xend here")
        return
    xend = need(host.agents.xend)
    clear = [
        f"{one.address}:{one.port}"
        for one in need(host.listeners.all)
        if one.port == 8002 and not is_local(one.address)
    ]
    if clear or xend.on("xend-relocation-server"):
        also = " beside the encrypted one" if xend.on("xend-relocation-ssl-server") else ""
        yield failed(
            f"xend takes VMs in over a clear connection{also}",
            sockets=clear or "not open now",
            setting="xend-relocation-server",
        )
    elif not xend.on("xend-relocation-ssl-server"):
        yield not_applicable("xend's relocation server is off")
    elif not (xend.text("xend-relocation-server-ssl-key-file") and xend.text("xend-relocation-server-ssl-cert-file")):
        yield failed("xend's encrypted relocation has no key or no certificate", setting="xend-relocation-ssl-server")
    elif not xend.on("xend-relocation-ssl"):
        yield failed("xend sends VMs over a clear connection", setting="xend-relocation-ssl")
    else:
        yield passed("xend relocates VMs over TLS alone", setting="xend-relocation-ssl-server")


@control("TLS-07")
def agent_has_its_own_key(host: Host, context: Context) -> Iterable[Verdict]:
    """Manager and agent speak TLS, with a key that no other host has."""
    agent = need(host.agents.ovs)
    if agent.settings.get("ssl", "").lower() in {"no", "false", "off", "0", "disable", "disabled"}:
        yield failed("ovs-agent speaks HTTP in the clear", setting=f"ssl = {agent.settings['ssl']}")
        return
    listening = any(one.port == _AGENT_PORT for one in need(host.listeners.all))
    fact = need(host.certificates.all).get(_AGENT_CERTIFICATE)
    if fact is None:
        if not listening:
            yield not_applicable("ovs-agent does not listen, and has no certificate")
        else:
            yield unknown(f"ovs-agent listens, and its certificate is not at {_AGENT_CERTIFICATE}")
        return
    yield _key(need(fact), _others_with(need(fact), host, context))


def _others_with(one: Certificate, host: Host, context: Context) -> list[str]:
    """Other hosts with the same certificate."""
    found = []
    for other in context.fleet:
        theirs = other.certificates.all
        if other.platform.id != host.platform.id and isinstance(theirs, Known):
            fact = theirs.value.get(_AGENT_CERTIFICATE)
            if isinstance(fact, Known) and fact.value.digest == one.digest:
                found.append(other.platform.name)
    return found


def _key(one: Certificate, others: list[str]) -> Verdict:
    if others:
        return failed(f"ovs-agent has the same certificate as {', '.join(others)}", sha256=one.digest)
    if one.key == "RSA" and one.bits < _LEAST_RSA:
        return failed(f"ovs-agent has a weak key of {one.bits} bits", sha256=one.digest)
    return passed(f"ovs-agent has a key of its own, {one.key} {one.bits}", sha256=one.digest)


@control("TLS-10")
def switch_takes_orders_from_nobody(host: Host, _: Context) -> Iterable[Verdict]:
    """Who controls Open vSwitch controls all networks of guests."""
    managers, controllers = host.agents.switch_managers, host.agents.switch_controllers
    if isinstance(managers, Absent):
        yield not_applicable("there is no Open vSwitch here")
        return
    targets = [*need(managers), *need(controllers, absent=())]
    open_targets = [target for target in targets if _is_open(target)]
    encrypted = {target.split(":")[1] or str(_OVSDB_PORT) for target in targets if target.startswith("pssl:")}
    sockets = [
        one
        for one in need(host.listeners.all)
        if (one.port == _OVSDB_PORT or one.process == "ovsdb-server")
        and str(one.port) not in encrypted
        and not is_local(one.address)
    ]
    if open_targets:
        yield failed(f"Open vSwitch takes orders without TLS: {', '.join(open_targets)}", targets=targets)
    elif sockets:
        where = [f"{one.address}:{one.port}" for one in sockets]
        yield failed(f"the database of Open vSwitch is open on {', '.join(where)}", sockets=where)
    else:
        yield passed("Open vSwitch takes orders over TLS or from this host alone", targets=targets or "none")


def _is_open(target: str) -> bool:
    """tcp:HOST:PORT, or ptcp:[PORT][:HOST], beyond loopback; one that is not understood counts as open."""
    match = _TARGET.fullmatch(target)
    if match is None:
        return True
    method, rest = match.groups()
    if method not in {"tcp", "ptcp"}:
        return False
    first, _, second = rest.partition(":")
    host = (rest.rpartition(":")[0] if method == "tcp" else second) or (first if method == "tcp" else "")
    try:
        return not ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host != "localhost"
