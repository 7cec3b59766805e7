# SPDX-License-Identifier: Apache-2.0
"""Rules of the area TLS about streams of QEMU: disks over NBD, and consoles."""

from __future__ import annotations

from collections.abc import Iterable

from donjon.audit.control import Context, control
from donjon.audit.controls.gst import listens
from donjon.audit.controls.reach import is_local
from donjon.audit.controls.vms import is_private
from donjon.audit.fact import need
from donjon.audit.facts.domains import ConsoleFact, Domain
from donjon.audit.facts.host import Host
from donjon.audit.facts.libvirt import Settings
from donjon.audit.facts.listeners import Listener
from donjon.audit.facts.processes import Process
from donjon.audit.verdict import Verdict, each, failed, not_applicable, passed, unknown

_NBD_PORT = 10809
_NBD_SERVERS = ("qemu-nbd", "nbdkit", "nbd-server")


@control("TLS-05")
def disks_travel_encrypted(host: Host, _: Context) -> Iterable[Verdict]:
    """A disk that is served over the network is served to those with a certificate, and not in the clear."""
    listeners = [one for one in need(host.listeners.all) if one.protocol == "tcp" and not is_local(one.address)]
    serving = [one for one in listeners if one.port == _NBD_PORT or one.process.startswith(_NBD_SERVERS)]
    if not serving:
        yield passed("no disk is served over the network")
        return
    processes = {one.pid: one for one in need(host.processes.all)}
    yield from each(
        serving,
        lambda one: _nbd(one, processes.get(one.pid)),
        subject=lambda one: f"tcp/{one.port} on {one.address}",
        none="no disk is served over the network",
    )


def _nbd(listener: Listener, process: Process | None) -> Verdict:
    where = f"{listener.address}:{listener.port}"
    if process is None:
        return unknown(f"it could not be seen who serves a disk on {where}")
    if any("tls-creds" in argument or argument.startswith("--tls") for argument in process.arguments):
        if not process.name.startswith(_NBD_SERVERS):
            return unknown(f"{process.name} has certificates; whether it asks for them on {where} could not be seen")
        if any(argument in {"--tls=off", "--tls=on"} for argument in process.arguments):
            return failed(f"{process.name} serves a disk on {where} to clients without TLS", process=process.name)
        return passed(f"{process.name} serves a disk on {where} over TLS", process=process.name)
    return failed(f"{process.name} serves a disk on {where} in the clear", process=process.name)


@control("TLS-08")
def consoles_are_encrypted(host: Host, _: Context) -> Iterable[Verdict]:
    """A console on the network shows screen and keys to those with a certificate or password alone."""
    consoles = [
        (vm, one)
        for vm in need(host.domains.all)
        for one in dict.fromkeys(console for _, state in vm.states for console in state.consoles)
        if one.kind in {"vnc", "spice"} and not all(map(is_private, listens(host, vm, one)))
    ]
    if not consoles:
        yield not_applicable("no console listens beyond loopback")
        return
    qemu = need(host.libvirt.qemu, absent={})
    yield from each(
        consoles,
        lambda pair: _console(*pair, qemu),
        subject=lambda pair: f"{pair[0].uuid} {pair[1].kind}",
        name=lambda pair: pair[0].name,
        none="no console listens beyond loopback",
    )


def _console(vm: Domain, one: ConsoleFact, qemu: Settings) -> Verdict:
    what = f"{one.kind.upper()} of {vm.name}"
    keys = [key for key in sorted(qemu) if key.startswith(one.kind)]
    settings = ", ".join(f"{key} = {'set' if 'password' in key else qemu[key]}" for key in keys) or "nothing is set"
    if qemu.get(f"{one.kind}_tls", 0) != 1:
        return failed(f"{what} is on the network without TLS", settings=settings)
    if one.kind == "spice" and one.insecure:
        return failed(f"{what} is on the network with TLS and without", settings=settings)
    known = qemu.get(f"{one.kind}_sasl", 0) == 1 or (one.kind == "spice" and one.has_password)
    if not known and qemu.get("vnc_tls_x509_verify" if one.kind == "vnc" else "", 0) != 1:
        return failed(f"{what} is on the network, and asks nobody who they are", settings=settings)
    return passed(f"{what} is encrypted, and clients are known", settings=settings)
