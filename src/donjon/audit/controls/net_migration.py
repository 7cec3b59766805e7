# SPDX-License-Identifier: Apache-2.0
"""Rules of the area NET about live migration: a network of its own, whichever hypervisor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from donjon.audit.control import Context, control
from donjon.audit.controls.reach import is_local
from donjon.audit.fact import Absent, Known, need
from donjon.audit.facts.host import Host
from donjon.audit.verdict import Verdict, failed, not_applicable, passed, unknown

_RELOCATION = {8002, 8003}


def has_peers(host: Host, context: Context) -> bool:
    """Whether there is another host to which VMs of this one could move; one of which nothing is known may be."""
    networks = context.profile.networks
    others = [one.platform.kinds for one in context.fleet if one.platform.id != host.platform.id]
    return bool(networks.peers or networks.migration) or any(
        not isinstance(kinds, Known) or "K" in kinds.value for kinds in others
    )


@control("NET-06")
def migration_has_its_own_network(host: Host, context: Context) -> Iterable[Verdict]:
    """Memory of guests goes over a network where neither guests nor administrators are."""
    if not has_peers(host, context):
        yield not_applicable("no other host is known to which VMs could move")
        return
    qemu = need(host.libvirt.qemu, absent={})
    address = str(qemu.get("migration_address", ""))
    setting = ", ".join(f"{key} = {qemu.get(key, 'not set')}" for key in ("migration_address", "migration_host"))
    if address in {"", "0.0.0.0", "::"}:  # noqa: S104 -- read, not bound
        yield failed("live migration listens on all addresses", setting=setting)
        return
    yield from _role(address, context, "live migration", setting)


def _role(address: str, context: Context, what: str, setting: str) -> Iterator[Verdict]:
    """Whether an address is in the migration network; where none is told, whether it is in another's."""
    networks = context.profile.networks
    try:
        parsed = ip_address(address)
    except ValueError:
        yield unknown(f"{what} uses {address}, and which network that is in cannot be told from a name")
        return
    roles = {role for role in ("migration", "guest", "management") for one in networks.of(role) if parsed in one}
    if "migration" in roles or not (roles or networks.migration):
        yield passed(f"{what} uses {address} alone", setting=setting)
    elif roles:
        yield failed(f"{what} uses {address}, in the {min(roles)} network", setting=setting)
    else:
        yield failed(f"{what} uses {address}, which is not in the migration network", setting=setting)


@control("NET-07")
def xen_migration_is_confined(host: Host, context: Context) -> Iterable[Verdict]:
    """Relocation by xend listens in the migration network; xl migrates over ssh and needs no port."""
    open_ports = [one for one in need(host.listeners.all) if one.port in _RELOCATION and not is_local(one.address)]
    if isinstance(host.agents.xend, Absent):
        if open_ports:
            where = [f"{one.address}:{one.port}" for one in open_ports]
            yield failed("a relocation port of xend is open, and nothing says who may use it", sockets=where)
        elif "O" in need(host.platform.kinds):
            yield not_applicable("there is no xend here")
        else:
            yield passed("there is no xend; xl migrates over ssh")
        return
    xend = need(host.agents.xend)
    if not (xend.on("xend-relocation-server") or xend.on("xend-relocation-ssl-server") or open_ports):
        yield not_applicable("xend's relocation server is off")
        return
    address = xend.text("xend-relocation-address")
    setting = f"xend-relocation-address '{address}'"
    if address in {"", "0.0.0.0"}:  # noqa: S104 -- read, not bound
        yield failed("xend's relocation server listens on all addresses", setting=setting)
        return
    wide = [one.address for one in open_ports if one.address != address]
    if wide:
        yield failed(f"xend's relocation server still listens on {', '.join(wide)}", setting=setting)
        return
    yield from _role(address, context, "xend's relocation server", setting)
