# SPDX-License-Identifier: Apache-2.0
"""Rules of the area MIN: nothing is on the host that it does not need."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from posixpath import basename

from donjon.audit.bundle import PathInfo
from donjon.audit.control import Context, control
from donjon.audit.fact import Absent, Known, need
from donjon.audit.facts.host import Host
from donjon.audit.facts.listeners import Listener
from donjon.audit.facts.units import Unit
from donjon.audit.profile import matches
from donjon.audit.tables import roles
from donjon.audit.verdict import Severity, Verdict, each, failed, not_applicable, passed, unknown

_NFS = ("nfs-server.service", "nfs-kernel-server.service", "nfs.service", "nfslock.service", "rpc-statd.service")
_JUDGED_UNITS = (".service", ".socket")
HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
_SETUID = 0o4000
_YES = frozenset({"1", "on", "yes", "true"})


@control("MIN-01")
def no_foreign_packages(host: Host, context: Context) -> Iterable[Verdict]:
    """What is not installed needs no patch and helps no attacker."""
    installed = need(host.packages.all)
    names = {one.name for one in installed.values()}
    found = False
    for kind, patterns in roles().packages.items():
        foreign = sorted(
            name for name in names if matches(name, patterns) and not matches(name, context.profile.allow.packages)
        )
        if foreign:
            found = True
            yield failed(f"{kind} on a virtualization host: {', '.join(foreign)}", kind, packages=foreign)
    if not found:
        yield passed(f"none of {len(names)} packages is of a kind that does not belong here", packages=len(names))


@control("MIN-02")
def no_foreign_services(host: Host, context: Context) -> Iterable[Verdict]:
    """Every service that starts by itself is one more way in."""
    if isinstance(host.units.all, Absent):
        yield not_applicable("no init system manages services here")
        return
    allowed = (*roles().services_of(need(host.platform.kinds)), *context.profile.allow.services)
    starting = [one for one in need(host.units.all).values() if one.starts and one.name.endswith(_JUDGED_UNITS)]
    foreign = [one for one in starting if not matches(one.name, allowed)]
    if foreign:
        yield from each(foreign, _foreign, subject=lambda one: one.name, none="")
    else:
        yield passed(f"all {len(starting)} services that are enabled belong to the host's role", units=len(starting))


def _foreign(unit: Unit) -> Verdict:
    state = "runs" if unit.active else "does not run now"
    return failed(f"{unit.name} is enabled ({state}), but a virtualization host needs it not", state=unit.enabled)


@control("MIN-03")
def no_foreign_listeners(host: Host, context: Context) -> Iterable[Verdict]:
    """What listens can be attacked before anybody has logged in."""
    kinds = need(host.platform.kinds)
    grouped: dict[str, list[Listener]] = {}
    for one in need(host.listeners.all):
        grouped.setdefault(f"{one.protocol}/{one.port}", []).append(one)
    yield from each(
        sorted(grouped.items()),
        lambda group: _listening(group[0], group[1], kinds, context.profile.allow.listeners),
        subject=lambda group: group[0],
        none="nothing listens on TCP or UDP",
    )


def _listening(place: str, sockets: list[Listener], kinds: str, allowed: tuple[str, ...]) -> Verdict:
    addresses, programs = {one.address for one in sockets}, {one.process for one in sockets}
    shown = "/".join(sorted(programs - {""})) or "an unknown program"
    if matches(place, allowed):
        return passed(f"{place} ({shown}) is allowed by the profile")
    expected = roles().programs_at(kinds, sockets[0].protocol, sockets[0].port)
    if expected and all(matches(program, expected) for program in programs):
        return passed(f"{shown} listens on {place} as expected", addresses=addresses, process=programs)
    if expected and "" in programs:
        return unknown(f"it could not be seen who listens on {place}")
    where = ", ".join(sorted(addresses))
    local = all(_is_loopback(address) for address in addresses)
    return failed(
        f"{shown} listens on {place} at {where}, which is not expected on this kind of host",
        severity=Severity.LOW if local else None,
        addresses=addresses,
        process=programs,
    )


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


@control("MIN-04")
def no_container_engine(host: Host, _context: Context) -> Iterable[Verdict]:
    """Container engines rewrite the firewall, and whoever may talk to one is root."""
    patterns = roles().container_engines["programs"]
    running = {one.name for one in need(host.processes.all) if matches(one.name, patterns)}
    sockets = {
        one.name for one in need(host.units.all, absent=dict[str, Unit]()).values() if _is_engine_unit(one, patterns)
    }
    if running or sockets:
        yield from each(
            sorted(running | {basename(name) for name in sockets}),
            lambda name: failed(f"{name}, of a container engine, runs beside the hypervisor"),
            subject=str,
            none="",
        )
    else:
        yield passed("no container engine runs")


def _is_engine_unit(unit: Unit, patterns: tuple[str, ...]) -> bool:
    stem, _, kind = unit.name.rpartition(".")
    known = {"docker", "snap.docker.dockerd", "snap.lxd.daemon", *patterns}
    return unit.active and kind in {"service", "socket"} and matches(stem, tuple(known))


@control("MIN-06")
def no_legacy_service(host: Host, _context: Context) -> Iterable[Verdict]:
    """Old services send passwords in the clear, or believe anybody."""
    if isinstance(host.units.all, Absent):
        yield not_applicable("no init system manages services here")
        return
    units = need(host.units.all)
    uses_nfs = any(units[name].active for name in _NFS if name in units)
    found = [*_legacy(units, uses_nfs), *_snmp(host)]
    yield from found or [passed("no service of the old, clear-text kind is enabled")]


def _legacy(units: dict[str, Unit], uses_nfs: bool) -> Iterator[Verdict]:
    for kind, patterns in roles().legacy.items():
        if kind == "rpcbind" and uses_nfs:
            continue
        on = [one for one in units.values() if (one.starts or one.active) and matches(one.name, patterns)]
        if on:
            names = [one.name for one in on]
            yield failed(f"{kind}: {', '.join(names)} is enabled or runs", kind, units=names)


def _snmp(host: Host) -> Iterator[Verdict]:
    """Only a daemon that starts or runs matters; then its communities must be seen."""
    units = need(host.units.all)
    daemon = units.get("snmpd.service")
    if daemon is None or not (daemon.starts or daemon.active):
        return
    if "default" in need(host.footprint.snmp_communities):
        yield failed("snmpd answers to a community that everybody knows", "snmp", units="snmpd.service")


@control("MIN-08")
def bridge_helper_is_restricted(host: Host, _context: Context) -> Iterable[Verdict]:
    """A setuid helper that obeys anybody puts anybody's machine on any bridge."""
    yield from each(
        [info.value for path in HELPERS if isinstance(info := host.paths.at(path), Known)] or _unseen_helpers(host),
        lambda info: _helper(host, info),
        subject=lambda info: info.path,
        none="qemu-bridge-helper is not installed",
    )


def _unseen_helpers(host: Host) -> list[PathInfo]:
    for path in HELPERS:
        info = host.paths.at(path)
        if not isinstance(info, Absent):
            need(info)
    return []


def _helper(host: Host, info: PathInfo) -> Verdict:
    if not info.mode & _SETUID:
        return not_applicable(f"{info.path} is not setuid")
    rules = need(host.footprint.bridge_rules, absent=())
    if "allow all" in rules:
        return failed(f"{info.path} lets its users join every bridge: allow all", mode=info.shown, rules=rules)
    if info.others & 1:
        return failed(f"everybody may run {info.path}, which is setuid", mode=info.shown, rules=rules)
    return passed(
        f"only members of {info.group or info.gid} may join the bridges that are named", mode=info.shown, rules=rules
    )


@control("MIN-11")
def dom0_is_fixed(host: Host, _context: Context) -> Iterable[Verdict]:
    """A dom0 that shrinks and grows with its guests fails when they need it most."""
    words = need(host.updates.xen).command_line
    memory = next((word.partition("=")[2] for word in words if word.startswith("dom0_mem=")), "")
    cpus = next((word for word in words if word.startswith("dom0_max_vcpus=")), "")
    autoballoon = need(host.memory.autoballoon, absent="auto")
    if not any(part.startswith("max:") for part in memory.split(",")):
        yield failed("dom0's memory has no upper limit: dom0_mem=...,max:... is missing", "memory", dom0_mem=memory)
    elif autoballoon.lower() in _YES:
        yield failed("xl takes memory from dom0 for guests: autoballoon is on", "memory", autoballoon=autoballoon)
    else:
        yield passed(f"dom0 has fixed memory: {memory}", "memory", dom0_mem=memory, autoballoon=autoballoon)
    if cpus:
        yield passed(f"dom0 has fixed processors: {cpus}", "processors", boot=cpus)
    else:
        yield failed("dom0 may use every processor: dom0_max_vcpus is missing", "processors", lower=1)
