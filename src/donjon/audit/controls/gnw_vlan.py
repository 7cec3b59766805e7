# SPDX-License-Identifier: Apache-2.0
"""Rules about VLANs and bonds inside guests: do they fit what is outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from donjon.audit.control import Context, control
from donjon.audit.controls.segments import management_vlans, switch_of, uplinks_of
from donjon.audit.controls.vms import each_vm
from donjon.audit.fact import Known, Unseen, need
from donjon.audit.facts.domains import Domain, NicFact
from donjon.audit.facts.guests import GuestLink
from donjon.audit.facts.host import Host
from donjon.audit.facts.network import Link
from donjon.audit.profile import Profile, matches
from donjon.audit.verdict import Severity, Verdict, failed, unknown


class Port(Struct, frozen=True):
    """The host's side of a guest's card.

    `kind`: "plain" (a bridge on a card or bond), "access" (one VLAN, which the guest does not see), "trunk", "ignored"
    (a VLAN that a plain bridge cannot honour), "none" (no frame leaves QEMU); `vlans`: those of a trunk, () for all;
    `native`: its untagged one.
    """

    kind: str
    where: str
    vlans: tuple[int, ...] = ()
    native: int = 0


def port_of(host: Host, nic: NicFact) -> Port:
    """The host's side of a card, as bridges, VLAN interfaces and Open vSwitch have it.

    Raises:
        Unseen: the device it is joined to could not be seen.
    """
    device, _ = switch_of(host, nic)
    vlans, native, trunk = _asked_for(host, nic)
    if nic.kind == "user":
        return Port("none", "QEMU itself")
    if nic.kind == "hostdev":
        return Port("access" if vlans else "plain", nic.source, vlans)
    if nic.port == "openvswitch" or _is_openvswitch(host, nic):
        return _switch_port(host, nic, vlans, native, trunk)
    links = need(host.network.links)
    if device not in links:
        raise Unseen(f"the host has no {device}")
    link = links[device]
    if link.vlan_filtering:
        return _filtered_port(links, nic, device)
    if vlans:
        return Port("ignored", device, vlans)
    uplinks = uplinks_of(links, device) if link.kind == "bridge" else [link]
    tagged = [uplink for uplink in uplinks if uplink.kind == "vlan"]
    return Port("access", tagged[0].name, (tagged[0].vlan,)) if tagged else Port("plain", device)


def _asked_for(host: Host, nic: NicFact) -> tuple[tuple[int, ...], int, bool]:
    """VLANs, native VLAN, and whether it is a trunk: of the card, else of its network."""
    if nic.vlan or nic.trunk or nic.kind != "network":
        return nic.vlan, nic.native_vlan, nic.trunk
    network = need(host.domains.networks)[nic.source]
    return network.vlan, network.native_vlan, network.trunk


def _is_openvswitch(host: Host, nic: NicFact) -> bool:
    if nic.kind != "network":
        return False
    return need(host.domains.networks)[nic.source].port == "openvswitch"


def _switch_port(host: Host, nic: NicFact, vlans: tuple[int, ...], native: int, trunk: bool) -> Port:
    """By Open vSwitch itself while the VM runs, else by what the definition asks for."""
    if nic.tap and isinstance(host.domains.switch_ports, Known) and nic.tap in host.domains.switch_ports.value:
        port = host.domains.switch_ports.value[nic.tap]
        if port.tag and not port.trunks and not port.mode.startswith("native"):
            return Port("access", nic.tap, (port.tag,))
        return Port("trunk", nic.tap, port.trunks, port.tag)
    if trunk or not vlans:
        return Port("trunk", nic.source, vlans, native)
    return Port("access", nic.source, vlans)


def _filtered_port(links: dict[str, Link], nic: NicFact, device: str) -> Port:
    port = links.get(nic.tap)
    if port is None:
        raise Unseen(f"VLANs of its port on {device} are seen only while it runs")
    if len(port.port_vlans) == 1 and port.port_native in port.port_vlans:
        return Port("access", nic.tap, port.port_vlans)
    return Port("trunk", nic.tap, port.port_vlans, port.port_native)


@control("GNW-04")
def tags_fit(host: Host, context: Context) -> Iterable[Verdict]:
    """A guest that tags inside an access port is deaf, or hops into VLANs that are not its own."""

    def find(vm: Domain) -> Iterator[Verdict]:
        links = _inside(host, vm) if vm.nics else ()
        for nic in vm.nics:
            inside = [link for link in links if link.mac == nic.mac and link.kind == "ethernet"]
            if not inside:
                yield unknown(f"the guest knows no card {nic.mac}")
                continue
            tags = {link.vlan for link in links if link.kind == "vlan" and _carries(links, link.parent, inside[0].name)}
            yield from _fits(host, vm, nic, tags, context.profile)

    return each_vm(host, find, good="what it tags fits the ports it is joined to")


def _inside(host: Host, vm: Domain) -> tuple[GuestLink, ...]:
    guest = host.guests.get(vm.uuid)
    if guest is None:
        raise Unseen("nobody looked inside the guest for its network")
    return need(guest.links)


def _carries(links: tuple[GuestLink, ...], parent: str, name: str) -> bool:
    """Whether a VLAN's parent is this card, or a bond of it."""
    return parent == name or any(link.name == parent and name in link.members for link in links)


def _fits(host: Host, vm: Domain, nic: NicFact, tags: set[int], profile: Profile) -> Iterator[Verdict]:
    port = port_of(host, nic)
    shown = ", ".join(map(str, sorted(tags)))
    wrong, severity = "", None
    if port.kind == "ignored":
        wrong = f"its VLAN {', '.join(map(str, port.vlans))} is set on the plain bridge {port.where}, which ignores it"
    elif port.kind == "trunk":
        wrong, severity = _fits_trunk(host, vm, port, tags, profile)
    elif tags and port.kind == "plain":
        wrong = f"it tags VLAN {shown} on {port.where}, and so chooses any VLAN that the switch lets through"
        severity = Severity.HIGH if profile.multi_tenant else None
    elif tags and port.kind == "access":
        wrong = f"it tags VLAN {shown} on {port.where}, which is an access port already"
    if wrong:
        yield failed(f"{vm.name}: {wrong}", severity=severity, nic=nic.mac, port=port.where, tags=shown)


def _fits_trunk(host: Host, vm: Domain, port: Port, tags: set[int], profile: Profile) -> tuple[str, Severity | None]:
    lost = sorted(tags - set(port.vlans)) if port.vlans else []
    if lost:
        return f"it tags VLAN {', '.join(map(str, lost))}, which the trunk {port.where} does not carry", None
    if tags and not _approved(vm, profile):
        return f"nobody approved that it has the trunk {port.where}", None
    if not port.native:
        return "", None
    managed = port.native in management_vlans(host, profile.networks.of("management"))
    wrong = f"the trunk {port.where} has the native VLAN {port.native}, into which it sends untagged frames"
    return wrong, Severity.HIGH if managed else Severity.LOW


def _approved(vm: Domain, profile: Profile) -> bool:
    return matches(vm.name, profile.allow.trunks)


@control("GNW-05")
def no_full_trunk(host: Host, context: Context) -> Iterable[Verdict]:
    """A port that carries several VLANs makes the guest a router between them; VLAN 1 is where switches live."""
    approved = context.profile.allow.trunks
    networks = context.profile.networks.of("management")

    def find(vm: Domain) -> Iterator[Verdict]:
        for nic in vm.nics:
            port = port_of(host, nic)
            shown = ", ".join(map(str, port.vlans)) or "all"
            if port.kind == "trunk" and not matches(vm.name, approved):
                what = f"{vm.name} is given a trunk with VLANs {shown} on {port.where}"
                yield failed(what, port=port.where, vlans=shown)
            native = port.native or (port.vlans[0] if port.kind == "access" else 0)
            if native and native in management_vlans(host, networks):
                yield failed(f"{vm.name} is untagged in VLAN {native}, the management's", port=port.where, vlans=shown)

    return each_vm(host, find, good="each of its ports carries one VLAN, and not the management's")


@control("GNW-06")
def bonds_have_two_paths(host: Host, _: Context) -> Iterable[Verdict]:
    """A bond in a guest protects from nothing if its cards end in the same cable."""

    def find(vm: Domain) -> Iterator[Verdict]:
        links = _inside(host, vm) if len(vm.nics) > 1 else ()
        for bond in (link for link in links if link.kind == "bond"):
            macs = [link.mac for name in bond.members for link in links if link.name == name]
            nics = [nic for nic in vm.nics if nic.mac in macs]
            if len(nics) < len(bond.members) or len(nics) < 2:
                yield unknown(f"which cards {bond.name} of {vm.name} joins could not be seen")
            else:
                yield from _paths(host, vm, bond.name, nics)

    return each_vm(host, find, good="it has no bond, or one with two paths")


def _paths(host: Host, vm: Domain, bond: str, nics: list[NicFact]) -> Iterator[Verdict]:
    links = need(host.network.links)
    devices = [switch_of(host, nic)[0] for nic in nics]
    missing = [device for device in devices if device not in links]
    if missing:
        raise Unseen(f"the host has no {missing[0]}")
    ports = [_cards_below(links, device) for device in devices]
    shared = set.intersection(*ports)
    ways = zip(nics, devices, ports, strict=True)
    path = "; ".join(f"{nic.mac} > {device} > {', '.join(sorted(port))}" for nic, device, port in ways)
    if len(set(devices)) < len(devices):
        yield failed(f"cards of {bond} in {vm.name} end on the same bridge {devices[0]}", path=path)
    elif shared:
        yield failed(f"cards of {bond} in {vm.name} end on the same card {min(shared)}", path=path)
    elif any(not port for port in ports):
        yield unknown(f"where {bond} of {vm.name} leaves the host could not be seen")
    else:
        slots = [{links[name].pci.rpartition(".")[0] for name in port} for port in ports]
        same = set.intersection(*slots) - {""}
        if any("" in slot for slot in slots):
            yield unknown(f"on which adapters {bond} of {vm.name} ends could not be seen")
        elif same:
            yield failed(f"cards of {bond} in {vm.name} end on one adapter, {min(same)}", lower=1, path=path)


def _cards_below(links: dict[str, Link], device: str) -> set[str]:
    """The cards through which frames of a bridge, VLAN or bond leave the host."""
    link = links.get(device)
    if link is None:
        return set()
    if link.kind == "bridge":
        return set().union(*(_cards_below(links, uplink.name) for uplink in uplinks_of(links, device)))
    if link.kind == "vlan" and link.parent != device:
        return _cards_below(links, link.parent)
    if link.kind == "bond":
        return set(link.bond_members)
    return {device}
