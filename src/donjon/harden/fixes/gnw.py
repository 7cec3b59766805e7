# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area GNW: what a guest's network card may pretend, and cards that have one address.

Source: libvirt.org/formatnwfilter.html, formatdomain.html ("Network interfaces").
"""

from __future__ import annotations

import hashlib
import re
from html import unescape

from donjon.audit.catalogue import FixClass
from donjon.audit.fact import Unseen, need
from donjon.audit.facts.domains import Domain
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, fix
from donjon.harden.editors import Rewrite
from donjon.harden.fixes.gst import definition, redefined, stored_vm
from donjon.harden.fixes.guest_xml import each_device, with_part

_FILTER = "no-mac-spoofing"
_THERE = f"virsh nwfilter-dumpxml {_FILTER} >/dev/null"
_MAC = re.compile(r"(?m)^(      <mac address=')([0-9A-Fa-f:]{17})('/>)$")


@fix("GNW-02")
def cards_held_to_their_address(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """A card on a bridge sends with its own address; libvirt filters on bridges of Linux alone."""
    vm = stored_vm(result, host)
    foreign = {one.name for one in need(host.domains.networks, absent={}).values() if one.port or not one.bridge}
    fitting = [nic for nic in vm.nics if _can_be_filtered(nic.kind, nic.source, nic.port, foreign) or nic.trusts_guest]
    if not fitting:
        raise Unseen("libvirt has no filter for cards that are joined to the network in this way")
    return Change(
        f"{result.name} sends with the addresses of its own cards",
        (definition(result.subject, each_device("interface", lambda one: _filtered(one, foreign))),),
        preview=_THERE,
        guests=(result.name,),
        fix_class=FixClass.NEXT_BOOT,
        note="in force when the VM is started the next time; a guest that bridges others inside must not have it",
    )


def _can_be_filtered(kind: str, source: str, port: str, foreign: set[str]) -> bool:
    return not port and (kind == "bridge" or (kind == "network" and source not in foreign))


def _filtered(card: str, foreign: set[str]) -> str:
    card = card.replace(" trustGuestRxFilters='yes'", "", 1)
    kind = re.match(r"    <interface type='(\w+)'", card)
    source = re.search(r"<source network='([^']*)'", card)
    port = "<virtualport type=" in card
    fits = kind and _can_be_filtered(kind[1], unescape(source[1]) if source else "", "x" if port else "", foreign)
    return with_part(card, f"<filterref filter='{_FILTER}'/>") if fits and "<filterref " not in card else card


@fix("GNW-03")
def addresses_of_their_own(result: Result, host: Host, profile: Profile) -> Change:  # noqa: ARG001
    """Of VMs of this host with one address, the one that runs, or was named first, keeps it; others get a new one."""
    vm = stored_vm(result, host)
    domains = need(host.domains.all)
    twice = {nic.mac for nic in vm.nics if [one.mac for one in vm.nics].count(nic.mac) > 1}
    shared = {nic.mac for nic in vm.nics for other in domains if other.key != vm.key and nic.mac in _macs(other)}
    if not shared and not twice:
        raise Unseen("no other card of this host has the same address")
    if shared and vm.key == _keeper(shared, domains).key:
        raise Unseen(f"{vm.name} keeps its address; the other VM should get a new one")
    if any(one.key == vm.key and one.running for one in domains):
        raise Unseen(f"{vm.name} runs: stop it first, for until then both take each other's traffic")
    taken = {mac for one in domains for mac in _macs(one)}
    return redefined(
        result,
        f"the addresses of {result.name} are its own",
        _readdressed(vm.key, shared, taken),
        note="reservations for the old address do not hold for it any more",
    )


def _macs(vm: Domain) -> set[str]:
    return {nic.mac for _, state in vm.states for nic in state.nics if nic.mac}


def _keeper(macs: set[str], domains: tuple[Domain, ...]) -> Domain:
    return min((vm for vm in domains if macs & _macs(vm)), key=lambda vm: (not vm.running, vm.key))


def _readdressed(key: str, shared: set[str], taken: set[str]) -> Rewrite:
    """Cards with an address of `shared`, and with one that an earlier card of the VM has, get one that nobody has."""

    def rewrite(xml: str) -> str:
        own: set[str] = set()

        def change(card: str) -> str:
            found = _MAC.search(card)
            mac = found[2].lower() if found else ""
            new = _new_mac(f"{key} {mac} {len(own)}", taken | own) if mac in shared or mac in own else mac
            own.add(new)
            return _MAC.sub(rf"\g<1>{new}\g<3>", card, count=1) if new != mac else card

        return each_device("interface", change)(xml)

    return rewrite


def _new_mac(seed: str, taken: set[str]) -> str:
    """An address of those that QEMU's users may choose from; the same for the same seed."""
    for attempt in range(len(taken) + 1):
        digest = hashlib.sha256(f"{seed} {attempt}".encode()).hexdigest()
        mac = f"52:54:00:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"
        if mac not in taken:
            return mac
    raise ValueError("there is no free address")
