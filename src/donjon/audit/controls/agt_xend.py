# SPDX-License-Identifier: Apache-2.0
"""Rules of the area AGT about xend: who may relocate VMs to it, and its management interfaces.

Sources: Xen 4.4.4, tools/python/xen/xend/server/relocate.py (allowed hosts: re.match against name by reverse DNS, or
address) and XendOptions.py (defaults).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from donjon.audit.control import Context, control
from donjon.audit.fact import Absent, need
from donjon.audit.facts.agents import XenApiServer, Xend
from donjon.audit.facts.host import Host
from donjon.audit.verdict import Severity, Verdict, failed, not_applicable, passed

_OCTET = r"(?:[0-9]{1,3}|\[0-9\](?:\+|\{1,3\})?|\\d(?:\+|\{1,3\})?)"
_SAFE = re.compile(rf"\^?{_OCTET}(?:\\\.{_OCTET}){{3}}\$")
_QUANTIFIERS = re.compile(r"[*+?{]")
_LONGEST = 100


@control("AGT-06")
def relocation_names_its_hosts(host: Host, _: Context) -> Iterable[Verdict]:
    """A pattern lets in all it matches the beginning of, and names that whoever owns the address may choose."""
    if isinstance(host.agents.xend, Absent):
        yield not_applicable("there is no xend here")
        return
    xend = need(host.agents.xend)
    if not (xend.on("xend-relocation-server") or xend.on("xend-relocation-ssl-server")):
        yield not_applicable("xend's relocation server is off")
        return
    patterns = xend.text("xend-relocation-hosts-allow").split()
    if not patterns:
        yield failed("xend takes VMs in from anyone", setting="xend-relocation-hosts-allow ''")
    for pattern in patterns:
        if _SAFE.fullmatch(pattern):
            yield passed(f"{pattern} matches addresses alone", pattern)
        else:
            example = counter_example(pattern)
            proof = f", {example} for one" if example else ""
            yield failed(
                f"{pattern} lets in more than it seems to{proof}", pattern, counter_example=example or "none found"
            )


def counter_example(pattern: str) -> str:
    """An address or a name by reverse DNS that the pattern lets in, and its author hardly meant; "" if none is found.

    Patterns that could take for ever are not tried.
    """
    if len(pattern) > _LONGEST or len(_QUANTIFIERS.findall(pattern)) > 1:
        return ""
    try:
        compiled = re.compile(pattern)
    except re.error:
        return ""
    body = pattern.strip("^$")
    exact = re.sub(r"\\(.)", r"\1", body)
    other = re.sub(r"\\(.)|\.[*+]?", lambda part: part[1] or ("evil" if len(part[0]) > 1 else "x"), body)
    tries = [*([other] if "evil" in other else []), f"{exact}0", f"{exact}.evil.example", other, exact]
    return next((one for one in tries if compiled.match(one)), "")


@control("AGT-07")
def xend_is_managed_from_here_alone(host: Host, _: Context) -> Iterable[Verdict]:
    """Whoever speaks to xend's management interfaces is root here; most of them ask for nothing."""
    if isinstance(host.agents.xend, Absent):
        yield not_applicable("there is no xend here")
        return
    xend = need(host.agents.xend)
    open_ports = {one.port for one in need(host.listeners.all)}
    found = [*_plain_servers(xend, open_ports), *(one for server in xend.api for one in _api(server))]
    yield from found or [passed("xend is managed over its unix socket alone")]


def _plain_servers(xend: Xend, open_ports: set[int]) -> Iterator[Verdict]:
    """Both ask nobody who they are."""
    address = xend.text("xend-address")
    for key, port, what in (
        ("xend-http-server", 8000, "xend's HTTP server"),
        ("xend-tcp-xmlrpc-server", 8006, "xend's XML-RPC server"),
    ):
        where = xend.text(f"{key}-address") or address
        if xend.on(key) or port in open_ports:
            local = _is_local(where)
            severity = Severity.HIGH if local else Severity.CRITICAL
            say = f"{what} listens on {where or 'all addresses'} and asks nobody who they are"
            yield failed(say, f"tcp/{port}", severity=severity, setting=f"{key} {xend.text(key) or 'not set'}")


def _api(server: XenApiServer) -> Iterator[Verdict]:
    if server.where == "unix":
        return
    address = server.where.rpartition(":")[0]
    shown = f"{server.where}, {server.authentication}{', TLS' if server.tls else ''}"
    if server.authentication == "none":
        yield failed(f"xend's API on {server.where} asks nobody who they are", server.where, setting=shown)
    elif not _is_local(address) and not server.tls:
        yield failed(f"xend's API on {server.where} takes passwords in the clear", server.where, setting=shown)
    else:
        yield passed(f"xend's API on {server.where} asks who comes", server.where, setting=shown)


def _is_local(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
