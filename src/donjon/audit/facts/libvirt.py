# SPDX-License-Identifier: Apache-2.0
"""libvirt's daemons: their settings, and what the connection says of itself."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Unknown

Settings = dict[str, str | int | tuple[str, ...]]


class Libvirt(Struct, frozen=True):
    """libvirt's daemons.

    `qemu` is qemu.conf; `daemons` daemon -> its settings (libvirtd, virtqemud, virtproxyd, ...): only what is set,
    defaults not filled in; `security_models` of the capabilities ("apparmor", "dac").
    """

    version: Fact[str]
    qemu: Fact[Settings]
    daemons: Fact[dict[str, Settings]]
    security_models: Fact[tuple[str, ...]]


def read_libvirt(bundle: Bundle) -> Libvirt:
    """From /etc/libvirt/*.conf and virsh capabilities."""
    nothing = Unknown("not read yet")
    return Libvirt(nothing, nothing, nothing, nothing)
