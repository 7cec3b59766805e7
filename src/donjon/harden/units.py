# SPDX-License-Identifier: Apache-2.0
"""Services of the host switched on and off, by systemd or by SysV's scripts; undone to what they were.

Source: systemctl(1), chkconfig(8); /var/lock/subsys is where SysV's scripts on Red Hat's systems note that they run.
"""

from __future__ import annotations

from donjon.audit.fact import need
from donjon.audit.facts.host import Host
from donjon.harden.change import Command, words

_SYSTEMD = {
    "is enabled": '[ "$(systemctl is-enabled -- "$unit" 2>/dev/null)" = enabled ]',
    "is active": 'systemctl is-active --quiet -- "$unit"',
    "enable": 'systemctl enable -- "$unit"',
    "disable": 'systemctl disable -- "$unit"',
    "start": 'systemctl start -- "$unit"',
    # Some units refuse to be stopped by hand, that of auditd does; a template has nothing to stop.
    "stop": 'case $unit in *@.*) ;; *) systemctl stop -- "$unit" || systemctl kill -- "$unit" ;; esac',
}
_SYSV = {
    "is enabled": 'chkconfig "$unit"',
    "is active": '[ -e "$ROOT/var/lock/subsys/$unit" ]',
    "enable": 'chkconfig "$unit" on',
    "disable": 'chkconfig "$unit" off',
    "start": 'service "$unit" start',
    "stop": 'service "$unit" stop',
}
_STATE = """\
enabled() {{ {is enabled} && echo on || echo off; }}
active() {{ {is active} && echo on || echo off; }}
for unit in {units}; do echo "$unit $(enabled) $(active)"; done"""
_OFF = """\
for unit in {units}; do
    {disable}
    if {is active}; then {stop}; fi
done"""
_OFF_UNDONE = """\
while read -r unit enabled active; do
    if [ "$enabled" = on ]; then {enable}; fi
    if [ "$active" = on ]; then {start}; fi
done <"$BEFORE\""""
_ON = """\
for unit in {units}; do
    {enable}
    {start}
done"""
_ON_UNDONE = """\
while read -r unit enabled active; do
    if [ "$enabled" = off ]; then {disable}; fi
    if [ "$active" = off ]; then {stop}; fi
done <"$BEFORE\""""


def switched_off(host: Host, *units: str) -> Command:
    """These units neither run nor start at boot. Raises Unseen: what manages services could not be seen."""
    return _command(f"switch {', '.join(units)} off", host, units, _OFF, _OFF_UNDONE)


def switched_on(host: Host, *units: str) -> Command:
    """These units run, and start at boot. Raises Unseen: what manages services could not be seen."""
    return _command(f"switch {', '.join(units)} on", host, units, _ON, _ON_UNDONE)


def _command(title: str, host: Host, units: tuple[str, ...], do: str, undo: str) -> Command:
    systemd = need(host.units.init) == "systemd"
    verbs = _SYSTEMD if systemd else _SYSV
    names = words(*(units if systemd else [unit.removesuffix(".service") for unit in units]))
    do, undo, state = (text.format(units=names, **verbs) for text in (do, undo, _STATE))
    return Command(title, do, undo, state)
