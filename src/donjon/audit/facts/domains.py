# SPDX-License-Identifier: Apache-2.0
"""All VMs of a host, and libvirt's networks, from what the collector brought."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct, field
from msgspec.structs import replace

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown, derived
from donjon.audit.facts.domain import (
    ChannelFact,
    ConsoleFact,
    CpuFact,
    DeviceFact,
    DiskFact,
    Domain,
    NicFact,
    ShareFact,
)
from donjon.audit.facts.domain_network import SwitchPort, VirtualNetwork, parse_networks, parse_switch_ports
from donjon.audit.facts.domain_ovm import parse_configurations
from donjon.audit.facts.domain_virsh import read_libvirt_domains
from donjon.audit.facts.domain_xl import parse_xl_list
from donjon.audit.facts.domain_xm import parse_xm_list

__all__ = [
    "ChannelFact",
    "ConsoleFact",
    "CpuFact",
    "DeviceFact",
    "DiskFact",
    "Domain",
    "Domains",
    "NicFact",
    "ShareFact",
    "SwitchPort",
    "VirtualNetwork",
    "read_domains",
]


class Domains(Struct, frozen=True):
    """All VMs that the host knows, running or not; `networks`: libvirt's, by name; `switch_ports`: Open vSwitch's."""

    all: Fact[tuple[Domain, ...]]
    networks: Fact[dict[str, VirtualNetwork]] = field(default_factory=lambda: Unknown("not read"))
    switch_ports: Fact[dict[str, SwitchPort]] = field(default_factory=lambda: Unknown("not read"))


def read_domains(bundle: Bundle) -> Domains:
    """From virsh dumpxml and net-dumpxml, xl list -l, xm list -l, and the definitions in /etc/xen and /OVS."""
    return Domains(
        _all(bundle),
        derived(bundle.output("libvirt-networks"), parse_networks),
        derived(bundle.output("openvswitch-ports"), parse_switch_ports),
    )


def _all(bundle: Bundle) -> Fact[tuple[Domain, ...]]:
    """Of all hypervisors; unknown as soon as one that is installed does not answer, for a VM unseen is no good VM."""
    kinds = bundle.output("hypervisors")
    installed = kinds.value.split() if isinstance(kinds, Known) else ["libvirt-qemu", "xl", "oracle-vm"]
    sources: list[tuple[str, Fact[tuple[Domain, ...]]]] = [
        ("libvirt-qemu", read_libvirt_domains(bundle)),
        ("xl", derived(bundle.output("xl-domains"), parse_xl_list)),
        ("oracle-vm", derived(bundle.output("xm-domains"), parse_xm_list)),
        ("xl oracle-vm", derived(bundle.output("xen-definitions"), parse_configurations)),
    ]
    seen: list[Domain] = []
    for names, domains in sources:
        needed = bool(set(names.split()) & set(installed))
        match domains:
            case Known(value):
                seen += value
            case Unknown() if needed:
                return domains
            case Absent() if needed and isinstance(kinds, Known):
                return Unknown(f"{domains.source}: not there, though {names} is")
    listen = bundle.output("xend-vnc-listen")
    seen = [_listening(domain, listen) for domain in seen]
    if not any(isinstance(domains, Known) for _, domains in sources):
        return Unknown("no hypervisor could be asked for its VMs")
    return Known(tuple(_merged(seen)), "cmd/domains, cmd/xl-domains, cmd/xm-domains, cmd/xen-definitions")


def _listening(domain: Domain, default: Fact[str]) -> Domain:
    """With xend's own address put in where the definition leaves it to xend; xend's default is the loopback."""
    if domain.origin not in ("xm", "vm.cfg") or not isinstance(default, Known):
        return domain
    address = default.value.strip() or "127.0.0.1"
    consoles = (replace(one, listen=one.listen or (address,)) for one in domain.consoles)
    return replace(domain, consoles=tuple(consoles))


def _merged(domains: Iterable[Domain]) -> Iterator[Domain]:
    """One of each: a running VM and its definition in a file, or two hypervisors' words on the same VM, become one."""
    groups: dict[str, list[Domain]] = {}
    for domain in domains:
        groups.setdefault(domain.key, []).append(domain)
    for group in groups.values():
        first, *others = sorted(group, key=lambda one: not one.running)
        stored = next((other for other in others if not other.running), None)
        definition = stored if stored is not None and first.stored is None else first.stored
        options = {**(stored.options if stored else {}), **first.options}
        file = first.file or (stored.file if stored else "")
        autostart = any(one.autostart for one in group)
        yield replace(first, stored=definition, options=options, file=file, autostart=autostart)
