# SPDX-License-Identifier: Apache-2.0
"""All facts of one host; each group is read from the bundle by its own module."""

from __future__ import annotations

from msgspec import Struct, field

from donjon.audit.bundle import Bundle, Paths
from donjon.audit.facts.accounts import Accounts, read_accounts
from donjon.audit.facts.agents import Agents, read_agents
from donjon.audit.facts.backup import Backup
from donjon.audit.facts.baseline import Baseline, read_baseline
from donjon.audit.facts.boot import Boot, read_boot
from donjon.audit.facts.certificates import Certificates, read_certificates
from donjon.audit.facts.domains import Domains, read_domains
from donjon.audit.facts.firewall import Firewall, read_firewall
from donjon.audit.facts.footprint import Footprint, read_footprint
from donjon.audit.facts.guests import Gold, Guest
from donjon.audit.facts.hardware import Hardware, read_hardware
from donjon.audit.facts.images import Images, read_images
from donjon.audit.facts.kernel import Kernel, read_kernel
from donjon.audit.facts.libvirt import Libvirt, read_libvirt
from donjon.audit.facts.listeners import Listeners, read_listeners
from donjon.audit.facts.logging import Logging, read_logging
from donjon.audit.facts.memory import Memory, read_memory
from donjon.audit.facts.network import Network, read_network
from donjon.audit.facts.packages import Packages, read_packages
from donjon.audit.facts.platform import Platform, read_platform
from donjon.audit.facts.processes import Processes, read_processes
from donjon.audit.facts.recovery import Recovery, read_recovery
from donjon.audit.facts.sshd import Sshd, read_sshd
from donjon.audit.facts.storage import Storage, read_storage
from donjon.audit.facts.units import Units, read_units
from donjon.audit.facts.updates import Updates, read_updates
from donjon.audit.facts.xen import Xen, read_xen

FACTS_SCHEMA = 1


class Host(Struct, frozen=True):
    """All facts of one host.

    `backup`, `guests` and `gold` are not in a bundle: they come from the repository, from guests' disks and from the
    register of gold images, and are put in by whoever has them.
    """

    platform: Platform
    boot: Boot
    kernel: Kernel
    xen: Xen
    memory: Memory
    processes: Processes
    listeners: Listeners
    units: Units
    packages: Packages
    footprint: Footprint
    updates: Updates
    accounts: Accounts
    sshd: Sshd
    libvirt: Libvirt
    logging: Logging
    baseline: Baseline
    firewall: Firewall
    network: Network
    certificates: Certificates
    agents: Agents
    domains: Domains
    storage: Storage
    images: Images
    hardware: Hardware
    recovery: Recovery
    paths: Paths
    backup: Backup = field(default_factory=Backup)
    guests: dict[str, Guest] = field(default_factory=dict)
    gold: tuple[Gold, ...] | None = None
    schema: int = FACTS_SCHEMA


def read_host(bundle: Bundle) -> Host:
    """The facts of the host a bundle is from."""
    return Host(
        platform=read_platform(bundle),
        boot=read_boot(bundle),
        kernel=read_kernel(bundle),
        xen=read_xen(bundle),
        memory=read_memory(bundle),
        processes=read_processes(bundle),
        listeners=read_listeners(bundle),
        units=read_units(bundle),
        packages=read_packages(bundle),
        footprint=read_footprint(bundle),
        updates=read_updates(bundle),
        accounts=read_accounts(bundle),
        sshd=read_sshd(bundle),
        libvirt=read_libvirt(bundle),
        logging=read_logging(bundle),
        baseline=read_baseline(bundle),
        firewall=read_firewall(bundle),
        network=read_network(bundle),
        certificates=read_certificates(bundle),
        agents=read_agents(bundle),
        domains=read_domains(bundle),
        storage=read_storage(bundle),
        images=read_images(bundle),
        hardware=read_hardware(bundle),
        recovery=read_recovery(bundle),
        paths=bundle.paths,
    )
