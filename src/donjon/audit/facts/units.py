# SPDX-License-Identifier: Apache-2.0
"""Services of the host: systemd units, or SysV scripts on old hosts.

Source: systemctl(1), chkconfig(8).
"""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown, derived

_NO_CLIENT = "there is systemd, but no systemctl"
ENABLED = frozenset({"enabled", "enabled-runtime"})


class Unit(Struct, frozen=True):
    """A unit: `name` as "sshd.service"; `enabled` as systemctl says: "enabled", "static", "masked", ...

    Of SysV: enabled in runlevel 3; active if it holds its lock below /var/lock/subsys.
    """

    name: str
    enabled: str
    active: bool

    @property
    def starts(self) -> bool:
        """It is enabled, so it starts at boot or when it is asked for."""
        return self.enabled in ENABLED


class Units(Struct, frozen=True):
    """All units; `init` is "systemd", "sysv" or "none" (a container or chroot, where nothing is managed)."""

    init: Fact[str]
    all: Fact[dict[str, Unit]]


def read_units(bundle: Bundle) -> Units:
    """From systemctl list-unit-files and list-units, or chkconfig --list; by the probe "init"."""
    init = derived(bundle.output("init"), _init)
    if not isinstance(init, Known):
        reason = init.reason if isinstance(init, Unknown) else f"not there: {init.source}"
        return Units(init, Unknown(reason))
    if init.value == "none":
        return Units(init, Absent("cmd/init"))
    if init.value == "sysv":
        return Units(init, _sysv(bundle))
    return Units(init, _systemd(bundle))


def _init(text: str) -> str:
    word = text.strip()
    if word not in {"systemd", "sysv", "none"}:
        raise ValueError(f"{word[:20]!r} is no init system")
    return word


def _systemd(bundle: Bundle) -> Fact[dict[str, Unit]]:
    running = derived(bundle.output("units"), _active)
    if not isinstance(running, Known):
        return running if isinstance(running, Unknown) else Unknown(_NO_CLIENT)
    units = derived(bundle.output("unit-files"), lambda text: _units(text, running.value))
    return Unknown(_NO_CLIENT) if isinstance(units, Absent) else units


def _active(text: str) -> dict[str, bool]:
    """UNIT LOAD ACTIVE SUB DESCRIPTION; a mark before those that failed."""
    rows = (line.replace("●", " ").replace("*", " ", 1).split() for line in text.splitlines() if line.strip())
    found = {row[0]: row[2] == "active" for row in rows}
    if not found or not all("." in name for name in found):
        raise ValueError("no list of units")
    return found


def _units(text: str, active: dict[str, bool]) -> dict[str, Unit]:
    """UNIT-FILE STATE [PRESET]; an instance, "getty@tty1.service", is as its template."""
    states = {name: state for name, state, *_ in (line.split() for line in text.splitlines() if line.strip())}
    if not states or not all("." in name for name in states):
        raise ValueError("no list of unit files")
    return {
        name: Unit(name, states.get(name) or states.get(_template(name), ""), active.get(name, False))
        for name in sorted(states.keys() | active.keys())
    }


def _template(name: str) -> str:
    before, at, after = name.partition("@")
    return f"{before}@.{after.rpartition('.')[2]}" if at else name


def _sysv(bundle: Bundle) -> Fact[dict[str, Unit]]:
    locks = bundle.ran("subsys")
    if not isinstance(locks, Known):
        return Unknown("it could not be seen which services run")
    running = set(locks.value.out.split())
    units = derived(bundle.output("chkconfig"), lambda text: _of_chkconfig(text, running))
    return Unknown("there is no chkconfig to list services") if isinstance(units, Absent) else units


def _of_chkconfig(text: str, running: set[str]) -> dict[str, Unit]:
    """NAME 0:off 1:off 2:on 3:on ..., then for what xinetd starts: NAME: on."""
    found: dict[str, Unit] = {}
    for line in text.splitlines():
        name, *states = line.split() or [""]
        if len(states) == 7:
            enabled, active = "3:on" in states, name in running
        elif name.endswith(":") and states in (["on"], ["off"]):
            name = name[:-1]
            enabled = active = states == ["on"] and "xinetd" in running
        else:
            continue
        full = f"{name}.service"
        found[full] = Unit(full, "enabled" if enabled else "disabled", active)
    if not found:
        raise ValueError("no service at all")
    return found
