# SPDX-License-Identifier: Apache-2.0
"""Services of a virtualization host by port, and the networks that have business with each."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.facts.listeners import Listener


class Service(Struct, frozen=True):
    """A service. `allowed`: roles of networks that may reach it, none for nobody beyond the host.

    `management`: it gives control of the host. `kinds`: letters of the hosts where the port means this.
    """

    name: str
    first: int
    last: int
    allowed: tuple[str, ...] = ()
    management: bool = False
    kinds: str = "KXO"


_MANAGEMENT = ("management",)
_BETWEEN_HOSTS = ("migration",)

SERVICES = (
    Service("ssh", 22, 22, _MANAGEMENT, management=True),
    Service("libvirt without TLS", 16509, 16509, management=True),
    Service("libvirt over TLS", 16514, 16514, ("management", "migration"), management=True),
    Service("live migration", 49152, 49215, _BETWEEN_HOSTS),
    Service("a guest's console", 5900, 5999, kinds="KX"),
    Service("a guest's console", 5900, 5999, _MANAGEMENT, kinds="O"),
    Service("a guest's console", 6900, 6999, _MANAGEMENT, kinds="O"),
    Service("a guest's serial console", 10000, 10199, _MANAGEMENT, kinds="O"),
    Service("ovs-agent", 8899, 8899, _MANAGEMENT, management=True, kinds="O"),
    Service("xend's HTTP server", 8000, 8000, management=True, kinds="XO"),
    Service("xend's XML-RPC server", 8006, 8006, management=True, kinds="XO"),
    Service("xend relocation without TLS", 8002, 8002, kinds="XO"),
    Service("xend relocation", 8003, 8003, _BETWEEN_HOSTS, kinds="XO"),
    Service("OCFS2", 7777, 7777, ("storage",)),
    Service("NBD", 10809, 10809),
    Service("iSCSI", 3260, 3260, ("storage",)),
    Service("NFS", 2049, 2049, ("storage",)),
    Service("oVirt's agent", 54321, 54322, _MANAGEMENT, management=True, kinds="K"),
    Service("Cockpit", 9090, 9090, _MANAGEMENT, management=True),
    Service("the database of Open vSwitch", 6640, 6640),
)

_SSH = SERVICES[0]


def service_of(listener: Listener, kinds: str) -> Service | None:
    """What a TCP socket serves on hosts of these kinds; ssh by its name, too, wherever it listens."""
    if listener.protocol != "tcp":
        return None
    if listener.process == "sshd":
        return _SSH
    fitting = (one for one in SERVICES if one.first <= listener.port <= one.last and set(one.kinds) & set(kinds))
    return next(fitting, None)
