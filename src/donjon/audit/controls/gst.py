# SPDX-License-Identifier: Apache-2.0
"""Rules about doors into guests: consoles, ports, monitors, debuggers, raw arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from donjon.audit.control import Context, control
from donjon.audit.controls.emulator import debuggers, displays, monitors
from donjon.audit.controls.vms import each_vm, is_private
from donjon.audit.fact import Unseen, need
from donjon.audit.facts.domains import ConsoleFact, Domain
from donjon.audit.facts.host import Host
from donjon.audit.profile import matches
from donjon.audit.verdict import Severity, Verdict, failed, unknown

_STANDARD_MODELS = ("/usr/lib/xen/bin/", "/usr/lib64/xen/bin/", "/usr/libexec/xen/bin/", "qemu-dm")


@control("GST-01")
def console_not_exposed(host: Host, _: Context) -> Iterable[Verdict]:
    """VNC and SPICE listen on the loopback or a socket only, for whoever connects sits at the guest's keyboard."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            for console in state.consoles:
                yield from _exposed(host, vm, console, when)
            for address in displays(state.raw_arguments):
                if not is_private(address):
                    yield failed(f"{vm.name} is told to show its console on {address} by a raw argument", when=when)
        yield from _observed(host, vm)

    return each_vm(host, find, good="its consoles are not on the network")


def _exposed(host: Host, vm: Domain, console: ConsoleFact, when: str) -> Iterator[Verdict]:
    listen = listens(host, vm, console)
    public = [address for address in listen if not is_private(address)]
    if not public or (_encrypted(host, vm, console) and (console.has_password or _sasl(host, vm, console))):
        return
    password = "password could not be seen" if console.password_unseen else "without a password"
    how = "with a password, but not encrypted" if console.has_password else password
    yield failed(
        f"{console.kind.upper()} of {vm.name} listens on {', '.join(public)} {how}",
        severity=Severity.HIGH if console.has_password or _sasl(host, vm, console) else Severity.CRITICAL,
        when=when,
        listen=listen,
        port=console.port,
        password=console.has_password,
    )


def listens(host: Host, vm: Domain, console: ConsoleFact) -> tuple[str, ...]:
    """Where a console listens; raises Unseen if that is the host's default and could not be seen."""
    if console.listen:
        return console.listen
    if vm.origin == "libvirt":
        return (str(need(host.libvirt.qemu, {}).get(f"{console.kind}_listen", "127.0.0.1")),)
    if vm.origin == "xl":
        return ("127.0.0.1",)
    raise Unseen("where consoles listen is left to xend, whose configuration could not be seen")


def _encrypted(host: Host, vm: Domain, console: ConsoleFact) -> bool:
    if console.kind == "spice":
        return console.tls_port > 0 and console.port <= 0
    return vm.origin == "libvirt" and need(host.libvirt.qemu, {}).get("vnc_tls", 0) == 1


def _sasl(host: Host, vm: Domain, console: ConsoleFact) -> bool:
    return vm.origin == "libvirt" and need(host.libvirt.qemu, {}).get(f"{console.kind}_sasl", 0) == 1


def _observed(host: Host, vm: Domain) -> Iterator[Verdict]:
    """What its QEMU really listens on, beyond what the definition says."""
    if not vm.running or vm.origin != "libvirt":
        return
    if not vm.pid:
        raise Unseen("it runs, but which process that is could not be seen")
    said = {port for console in vm.consoles for port in (console.port, console.tls_port)}
    for listener in need(host.listeners.all):
        is_console = 5900 <= listener.port < 6000 and listener.port not in said
        if listener.pid == vm.pid and is_console and not is_private(listener.address):
            yield failed(
                f"QEMU of {vm.name} listens on {listener.address}:{listener.port}, which its definition does not say",
                socket=f"{listener.address}:{listener.port}",
            )


@control("GST-02")
def console_passwords(host: Host, _: Context) -> Iterable[Verdict]:
    """A console's password is in no file that others read, and is not all that guards it: VNC's has 8 characters."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            for console in state.consoles:
                yield from _password(host, vm, console, when)

    return each_vm(host, find, good="no console depends on a password")


def _password(host: Host, vm: Domain, console: ConsoleFact, when: str) -> Iterator[Verdict]:
    public = [address for address in listens(host, vm, console) if not is_private(address)]
    kind = console.kind.upper()
    if console.password_unseen:
        yield unknown("whether its consoles have passwords could not be seen: that takes root")
        return
    if console.has_password:
        yield from _readable(host, vm)
    if public and console.has_password and not _encrypted(host, vm, console) and not _sasl(host, vm, console):
        yield failed(f"a password is all that guards {kind} of {vm.name} beyond this host", when=when, listen=public)
    if public and not console.has_password and not _sasl(host, vm, console):
        yield failed(f"{kind} of {vm.name} listens beyond this host and has no password", when=when, listen=public)


def _readable(host: Host, vm: Domain) -> Iterator[Verdict]:
    path = vm.file or (f"/etc/libvirt/qemu/{vm.name}.xml" if vm.origin == "libvirt" and vm.persistent else "")
    if not path:
        return
    info = need(host.paths.at(path))
    if info.others & 4:
        yield failed(f"{path} holds a console's password and is readable by everybody", path=path, mode=info.shown)


@control("GST-04")
def ports_off_the_network(host: Host, _: Context) -> Iterable[Verdict]:
    """Serial and parallel ports and channels end in files, terminals or sockets of this host, or use TLS."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            for channel in state.channels:
                if channel.kind in {"tcp", "udp", "telnet", "tcp-tls"} and not channel.tls:
                    yield failed(
                        f"the {channel.device} port of {vm.name} is on the network: {channel.kind} {channel.where}",
                        lower=int(is_private(channel.where.rpartition(":")[0] or "0.0.0.0")),  # noqa: S104
                        when=when,
                        device=f"{channel.device} {channel.target}".strip(),
                        endpoint=channel.where,
                        mode=channel.mode,
                    )

    return each_vm(host, find, good="no port of it is on the network")


@control("GST-05")
def monitor_not_reachable(host: Host, _: Context) -> Iterable[Verdict]:
    """QEMU's monitor reads and writes all of a guest; only libvirt or xl may talk to it."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, arguments in _all_arguments(host, vm):
            for where, public in monitors(arguments):
                if public:
                    yield failed(f"QEMU's monitor of {vm.name} is on the network: {where}", when=when, argument=where)
                else:
                    yield from _monitor_socket(host, vm, where)

    return each_vm(host, find, good="nobody but its manager reaches its monitor")


def _monitor_socket(host: Host, vm: Domain, where: str) -> Iterator[Verdict]:
    """A second monitor on a socket of the host; one below libvirt's own directories is libvirt's."""
    if where.startswith(("/var/lib/libvirt/qemu/domain-", "/run/libvirt/", "/var/run/xen/", "/run/xen/", "fd")):
        return
    info = need(host.paths.at(where))
    if info.others & 2:
        yield failed(f"everybody on this host reaches QEMU's monitor of {vm.name}: {where}", mode=info.shown)


def _all_arguments(host: Host, vm: Domain) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What QEMU is told by the definition, and, while the VM runs, what its process really was told."""
    for when, state in vm.states:
        yield when, state.raw_arguments
    if vm.running and vm.origin == "libvirt":
        processes = need(host.processes.all)
        own = [one.arguments for one in processes if vm.uuid in one.arguments or one.pid == vm.pid]
        emulators = [arguments for arguments in own if "qemu" in "".join(arguments[:1])]
        if not emulators:
            raise Unseen("it runs, but its process was not seen")
        yield from (("now", arguments) for arguments in emulators)


@control("GST-06")
def no_debugger(host: Host, _: Context) -> Iterable[Verdict]:
    """A debugger's stub hands out all memory and registers of a guest, without a password."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, arguments in _all_arguments(host, vm):
            for argument in debuggers(arguments):
                yield failed(f"QEMU of {vm.name} waits for a debugger: {argument}", when=when, argument=argument)
        if vm.origin != "libvirt" and vm.running:
            for process in need(host.processes.all):
                if process.name.startswith("gdbsx"):
                    yield failed(f"gdbsx is running beside {vm.name}", pid=process.pid)

    return each_vm(host, find, good="no debugger can connect to it")


@control("GST-07")
def no_raw_arguments(host: Host, context: Context) -> Iterable[Verdict]:
    """Raw arguments go round all that libvirt and xl check; approved are names of VMs, or a digest of what is said."""
    approved = context.profile.allow.raw_arguments

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            said = [*state.raw_arguments]
            model = state.options.get("device_model", "")
            if model and not model.startswith(_STANDARD_MODELS) and "/qemu" not in model:
                said.append(f"device_model: {model}")
            digest = hashlib.sha256("\0".join(said).encode("utf-8", "surrogateescape")).hexdigest()
            if said and not matches(vm.name, approved) and f"sha256:{digest}" not in approved:
                text = " ".join(said)[:200]
                yield failed(f"{vm.name} is started with raw arguments", when=when, arguments=text, sha256=digest)

    return each_vm(host, find, good="it has no raw arguments")
