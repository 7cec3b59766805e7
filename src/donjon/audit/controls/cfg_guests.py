# SPDX-License-Identifier: Apache-2.0
"""Rule CFG-09: a VM runs as its definition says; see the catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import structs

from donjon.audit.control import Context, control
from donjon.audit.fact import need
from donjon.audit.facts.domain import ChannelFact, ConsoleFact, DiskFact, Domain, NicFact
from donjon.audit.facts.host import Host
from donjon.audit.verdict import Verdict, each, failed, not_applicable, passed


@control("CFG-09")
def guests_run_as_defined(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """What was plugged in while the VM ran was reviewed by nobody, and is gone after the next start."""
    vms = need(host.domains.all)
    yield from each(
        [vm for vm in vms if vm.running],
        _judge,
        subject=lambda vm: vm.key,
        name=lambda vm: vm.name,
        none="no VM runs",
    )


def _judge(vm: Domain) -> Verdict:
    if vm.stored is None:
        return not_applicable("it has no stored definition")
    now, stored = _devices(vm), _devices(vm.stored)
    now["consoles"] = {_console(_by_default(console, vm.stored)) for console in vm.consoles}
    extra = {kind: ", ".join(sorted(now[kind] - stored[kind])) for kind in now if now[kind] - stored[kind]}
    if extra:
        what = "; ".join(f"{kind}: {items}" for kind, items in extra.items())
        evidence: dict[str, Any] = {kind.replace(" ", "_"): items for kind, items in extra.items()}
        return failed(f"{vm.name} runs with what its definition does not have: {what}", **evidence)
    return passed(f"{vm.name} runs as it is defined")


def _by_default(console: ConsoleFact, stored: Domain) -> ConsoleFact:
    """Where the definition leaves the address to the host, the address that it has now says nothing."""
    left = any(one.kind == console.kind and not one.listen for one in stored.consoles)
    return structs.replace(console, listen=()) if left else console


def _devices(vm: Domain) -> dict[str, set[str]]:
    """What decides about security, by kind; without what the hypervisor makes up anew at each start."""
    return {
        "disks": {_disk(disk) for disk in vm.disks if disk.source},
        "network cards": {_nic(nic) for nic in vm.nics},
        "consoles": {_console(console) for console in vm.consoles},
        "channels": {_channel(channel) for channel in vm.channels},
        "devices": {f"{one.kind} {one.address}".strip() for one in vm.devices if one.address},
        "shares": {f"{one.source} {'read-only' if one.read_only else 'writable'}" for one in vm.shares},
        "arguments": set(vm.raw_arguments),
        "label": {"none"} if vm.label_type == "none" or not vm.relabel else set(),
    }


def _disk(disk: DiskFact) -> str:
    writable = "read-only" if disk.read_only else "writable"
    return f"{disk.target} {disk.source} {writable}{' shared' if disk.shareable else ''}"


def _nic(nic: NicFact) -> str:
    return f"{nic.mac} {nic.kind} {nic.source} filter {nic.filter or 'none'}"


def _console(console: ConsoleFact) -> str:
    password = "" if console.has_password or console.password_unseen else " without a password"
    return f"{console.kind} on {' '.join(console.listen) or 'the default'}{password}"


def _channel(channel: ChannelFact) -> str:
    """Terminals and sockets that libvirt chooses have other names each time."""
    where = channel.where if channel.kind in {"tcp", "udp", "dev", "file"} else ""
    return f"{channel.device} {channel.kind} {where}{channel.target}"
