# SPDX-License-Identifier: Apache-2.0
"""Services of the host: systemd units, or SysV scripts on old hosts."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Unknown


class Unit(Struct, frozen=True):
    """A unit: `name` as "sshd.service"; `enabled` as systemctl says: "enabled", "static", "masked", ..."""

    name: str
    enabled: str
    active: bool


class Units(Struct, frozen=True):
    """All units; `init` is "systemd", "sysv" or "none" (a container or chroot, where nothing is managed)."""

    init: Fact[str]
    all: Fact[dict[str, Unit]]


def read_units(bundle: Bundle) -> Units:
    """From systemctl list-unit-files and list-units, or chkconfig --list."""
    return Units(Unknown("not read yet"), Unknown("not read yet"))
