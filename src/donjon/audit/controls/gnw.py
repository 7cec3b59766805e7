# SPDX-License-Identifier: Apache-2.0
"""Rules about networks of guests: who shares a segment with whom, and whether guests can pose as others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from donjon.audit.control import Context, control
from donjon.audit.controls.segments import Segment, management_segments, segment_of
from donjon.audit.controls.vms import NO_VM, each_vm
from donjon.audit.fact import need
from donjon.audit.facts.domains import Domain, NicFact
from donjon.audit.facts.host import Host
from donjon.audit.profile import Profile
from donjon.audit.verdict import Verdict, each, failed, not_applicable, passed

_OWN_PREFIXES = ("52:54:00", "00:16:3e", "00:21:f6")
_FILTERS = ("clean-traffic", "clean-traffic-gateway", "no-mac-spoofing", "no-ip-spoofing", "vif-script")


@control("GNW-01")
def tenants_apart(host: Host, context: Context) -> Iterable[Verdict]:
    """Whoever shares a segment can listen, answer for others and reach what no firewall sees."""
    domains = need(host.domains.all)
    tenants: dict[Segment, dict[str, set[str]]] = {}
    isolated: dict[Segment, bool] = {}
    for vm in domains:
        for nic in vm.nics:
            segment = segment_of(host, nic)
            tenants.setdefault(segment, {}).setdefault(_tenant(vm, context.profile), set()).add(vm.name)
            isolated[segment] = isolated.get(segment, True) and _isolated(host, nic)
    if not any(tenant for names in tenants.values() for tenant in names):
        rows = {segment: sorted(set[str]().union(*vms.values())) for segment, vms in tenants.items()}
        table = "; ".join(f"{segment}: {', '.join(vms)}" for segment, vms in rows.items())
        yield not_applicable(f"no tenants are declared; segments: {table}" if table else NO_VM)
        return

    def judge(segment: Segment) -> Verdict:
        owners = sorted(tenant or "nobody" for tenant in tenants[segment])
        vms = sorted(set[str]().union(*tenants[segment].values()))
        if len(owners) > 1 and not isolated[segment]:
            return failed(f"tenants {', '.join(owners)} share the segment {segment}", segment=segment, vms=vms)
        return passed("one tenant, or isolated ports", segment=segment)

    yield from each(sorted(tenants), judge, subject=str, none=NO_VM)


def _tenant(vm: Domain, profile: Profile) -> str:
    return vm.labels.get("tenant", "") or profile.tenant_of(vm.name)


def _isolated(host: Host, nic: NicFact) -> bool:
    if nic.isolated or nic.kind == "user":
        return True
    return nic.kind == "network" and need(host.domains.networks)[nic.source].isolated


@control("GNW-02")
def no_spoofing(host: Host, context: Context) -> Iterable[Verdict]:
    """A guest sends with the addresses it was given, or it can take another's traffic."""

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            for nic in state.nics:
                if nic.trusts_guest:
                    yield failed(f"{vm.name} chooses the receive filter of {nic.mac} itself", when=when, nic=nic.mac)
                if not _filtered(host, vm, nic) and _has_neighbours(nic):
                    yield failed(
                        f"nothing keeps {vm.name} from using other addresses than {nic.mac}",
                        lower=0 if context.profile.multi_tenant or context.profile.tenants else 1,
                        when=when,
                        nic=nic.mac,
                        network=f"{nic.kind} {nic.source}",
                    )

    return each_vm(host, find, good="each of its network cards is held to its addresses")


def _has_neighbours(nic: NicFact) -> bool:
    """Whether there are neighbours to pose as."""
    return nic.kind in {"bridge", "network", "direct", "ethernet", "vhostuser"} and not nic.isolated


def _filtered(host: Host, vm: Domain, nic: NicFact) -> bool:
    if nic.filter.startswith(_FILTERS):
        return True
    return vm.origin == "libvirt" and need(host.libvirt.qemu, {}).get("mac_filter", 0) == 1


@control("GNW-03")
def no_duplicates(host: Host, context: Context) -> Iterable[Verdict]:
    """Two cards with one address take each other's traffic; two VMs with one UUID are taken for each other."""
    fleet = context.fleet or (host,)
    seen = {one.platform.id: need(one.domains.all) for one in fleet}
    domains = [(one, vm) for one in fleet for vm in seen[one.platform.id]]
    uuids = Counter(vm.uuid for _, vm in domains if vm.uuid)
    macs: dict[str, set[tuple[str, str]]] = {}
    for one, vm in domains:
        for nic in _cards(vm):
            macs.setdefault(nic.mac, set()).add((vm.key, f"{vm.name} on {one.platform.name}"))

    def find(vm: Domain) -> Iterator[Verdict]:
        if uuids[vm.uuid] > 1:
            places = [f"{other.name} on {one.platform.name}" for one, other in domains if other.uuid == vm.uuid]
            running = sum(other.running for _, other in domains if other.uuid == vm.uuid)
            yield failed(f"the UUID of {vm.name} is used {uuids[vm.uuid]} times", lower=int(running < 2), vms=places)
        for nic in _cards(vm):
            others = {place for key, place in macs[nic.mac] if key != vm.key}
            if others:
                yield failed(f"{nic.mac} of {vm.name} is used by {', '.join(sorted(others))}, too", nic=nic.mac)
            yield from _foreign(vm, nic)
        twice = [mac for mac, count in Counter(nic.mac for nic in vm.nics if nic.mac).items() if count > 1]
        if twice:
            yield failed(f"{vm.name} has two network cards with {twice[0]}", nic=twice[0])

    return each_vm(host, find, good="its UUID and addresses are its own")


def _cards(vm: Domain) -> list[NicFact]:
    stored = vm.stored.nics if vm.stored else ()
    return list({nic.mac: nic for nic in (*vm.nics, *stored) if nic.mac}.values())


def _foreign(vm: Domain, nic: NicFact) -> Iterator[Verdict]:
    first = nic.mac.partition(":")[0]
    if int(first, 16) & 1:
        yield failed(f"{nic.mac} of {vm.name} is a multicast address", nic=nic.mac)
    elif not nic.mac.startswith(_OWN_PREFIXES) and not int(first, 16) & 2:
        yield failed(f"{nic.mac} of {vm.name} belongs to a maker of real cards", lower=2, nic=nic.mac)


@control("GNW-08")
def guests_off_management(host: Host, context: Context) -> Iterable[Verdict]:
    """A guest in the management segment sees what administrators do, and reaches what listens for them alone."""
    if not need(host.domains.all):
        return [not_applicable(NO_VM)]
    management = management_segments(host, context.profile.networks.of("management"))

    def find(vm: Domain) -> Iterator[Verdict]:
        for when, state in vm.states:
            for nic in state.nics:
                segment = segment_of(host, nic)
                if segment in management:
                    yield failed(
                        f"{vm.name} is in the management segment {segment}",
                        when=when,
                        nic=nic.mac,
                        address=management[segment],
                    )

    return each_vm(host, find, good="it is not in the management segment")
