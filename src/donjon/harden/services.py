# SPDX-License-Identifier: Apache-2.0
"""Services that are told to read their configuration again, as pieces of sh for `donjon.harden.change.Change`.

What they call (service_does, with_guests) is in target.sh.
"""

from __future__ import annotations

from donjon.harden.change import words


def reloaded(*services: str) -> str:
    """Those of these services that run read their configuration again; give all the names one has: "ssh", "sshd"."""
    return words("service_does", "reload", *services)


def restarted(*services: str) -> str:
    """Those of these services that run are restarted."""
    return words("service_does", "restart", *services)


def libvirt_restarted() -> str:
    """The daemons of libvirt are restarted; the guests that run must be the same before and after."""
    return words("with_guests", "service_does", "restart", "libvirtd", "virtqemud", "virtproxyd")


SSHD_RELOADED = "sshd -t && service_does reload ssh sshd"
"""sshd says that its configuration is right, and then reads it; sessions stay."""
