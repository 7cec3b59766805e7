# SPDX-License-Identifier: Apache-2.0
"""Turns guests off in order, on, and holds them still.

Source: libvirt.org/html/libvirt-libvirt-domain.html#virDomainShutdownFlags.
"""

from __future__ import annotations

import time

from donjon.errors import HostError
from donjon.hypervisors.libvirt.connection import Domain, LibvirtError
from donjon.model.vm import Power

_POLL_S = 0.2


def shut_down(domain: Domain, timeout_s: float) -> None:
    """Ask the guest to end, by its agent if that answers, else by the power button, and wait for it.

    Raises:
        HostError: it is not running, would be gone once it is off, or is not off in time.
    """
    power = domain.power()
    if power is Power.OFF:
        return
    if power is not Power.RUNNING:
        raise HostError(
            f"cannot shut down {domain.name}: it is {power.value}",
            hint="let it go on first: `virsh resume`, or `virsh start` if it was saved",
        )
    if not domain.is_persistent():
        raise HostError(
            f"cannot shut down {domain.name}: it is transient and could not be started again", hint="suspend it instead"
        )
    deadline = time.monotonic() + timeout_s
    domain.ask_to_shut_down()
    while domain.power() is not Power.OFF:
        if time.monotonic() >= deadline:
            raise HostError(
                f"cannot shut down {domain.name}: it is still running after {timeout_s:g} s",
                hint="does the guest listen to the power button (acpid), or have qemu-guest-agent? It may still end",
            )
        time.sleep(_POLL_S)


def start(domain: Domain) -> None:
    """Turn the guest on, unless it is; a guest whose memory was saved goes on where it was."""
    try:
        if not domain.is_active():
            domain.start()
    except LibvirtError:
        if not domain.is_active():  # else another was faster
            raise


def suspend(domain: Domain) -> None:
    """Stop the guest's processors, unless they are.

    Raises:
        HostError: it is off, asleep or crashed.
    """
    if domain.power() is not Power.PAUSED:
        domain.suspend()


def resume(domain: Domain) -> None:
    """Let the guest go on, if it is paused in memory."""
    if domain.is_active() and domain.power() is Power.PAUSED:
        domain.resume()
