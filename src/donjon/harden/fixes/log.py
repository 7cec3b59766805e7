# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area LOG: see the catalogue.

Source: auditctl(8), augenrules(8); libvirtd.conf: with audit_level 2 it does not start where the kernel does not audit;
rsyslog's documentation of omfwd and of its TLS drivers; chrony.conf(5), timesyncd.conf(5); virtlogd.conf; logrotate(8).
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from donjon.audit.controls.log import DEFAULT_LOG, PROGRAMS, WATCHED
from donjon.audit.fact import Absent, Known, need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import LogServer, Profile
from donjon.harden.boot_options import reads_folder, without_option
from donjon.harden.change import Change, Command, Edit, Permissions, Want, fix, words
from donjon.harden.editors import Rewrite, assignments, in_section, lines, whole
from donjon.harden.services import libvirt_restarted, reloaded, restarted
from donjon.harden.units import switched_on

AUDIT_RULES = "/etc/audit/rules.d/60-donjon.rules"
OLD_AUDIT_RULES = "/etc/audit/audit.rules"
RSYSLOG_DROP_IN = "/etc/rsyslog.d/00-donjon.conf"
XEN_ROTATION = "/etc/logrotate.d/donjon-xen-consoles"
_AUDITS = (
    'auditctl -s | grep -q "enabled[ =][01]" || { echo "the rules of audit are locked, or nothing audits"; exit 1; }'
)
_AUDIT_ENABLED = "s/.*enabled[ =]\\([0-9]\\).*/\\1/p"
_KEEPERS = {"chrony.service": "chrony", "chronyd.service": "chrony", "ntpd.service": "ntpd", "ntpsec.service": "ntpd"}
_KEEPERS |= {"ntp.service": "ntpd", "systemd-timesyncd.service": "systemd"}
_INSTALLED = {"enabled", "disabled"}
"""What systemd says of units that can be switched on: no alias, nor masked, nor missing."""

_TLS_IS_THERE = """\
[ -e "$ROOT"{ca} ] || {{ echo {ca}" is not there"; exit 1; }}
for module in "$ROOT"/usr/lib*/rsyslog/lmnsd_gtls.so "$ROOT"/usr/lib/*/rsyslog/lmnsd_gtls.so \\
    "$ROOT"/lib*/rsyslog/lmnsd_gtls.so; do
    [ ! -e "$module" ] || exit 0
done
echo "rsyslog's module for TLS (rsyslog-gnutls) is not installed"
exit 1"""
_RSYSLOG = """\
global(DefaultNetstreamDriverCAFile="{ca}")
action(type="omfwd" target="{host}" port="{port}" protocol="tcp"
    StreamDriver="gtls" StreamDriverMode="1" StreamDriverAuthMode="x509/name" StreamDriverPermittedPeers="{host}"
    action.resumeRetryCount="-1"
    queue.type="LinkedList" queue.filename="donjon" queue.maxDiskSpace="1g" queue.saveOnShutdown="on")
"""
_ROTATION = """\
/var/log/xen/console/*.log {
    size 10M
    rotate 4
    compress
    copytruncate
    missingok
    notifempty
}
"""


@fix("LOG-01")
def audit_runs(result: Result, host: Host, profile: Profile) -> Change | None:
    """The host audits, now and after each boot; None if auditd is not installed."""
    if isinstance(host.logging.audit, Absent):
        return None
    status = need(host.logging.audit)
    if "audit=0" in need(host.platform.cmdline, absent=()):
        return without_option(replace(result, subject="linux audit"), host, profile)
    wants: list[Want] = [switched_on(host, "auditd.service")]
    if status.pid and not status.enabled:
        asked = f"auditctl -s | sed -n {words(_AUDIT_ENABLED)}"
        wants.append(Command("let the kernel audit", "auditctl -e 1", 'auditctl -e "$(cat "$BEFORE")"', asked))
    return Change("auditd runs, and starts at boot", tuple(wants))


@fix("LOG-02")
def audit_covers_virtualisation(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Changes to what decides about guests are recorded, and who runs the programs that control them."""
    if isinstance(host.logging.audit, Absent):
        return None
    roots = dict.fromkeys((*WATCHED, *profile.image_roots))
    rules = [f"-w {path} -p wa -k donjon-guests" for path in roots if _is_here(host, path)]
    rules += [f"-w {path} -p x -k donjon-control" for path in PROGRAMS if _is_here(host, path)]
    is_old = "O" in need(host.platform.kinds)
    path, load = (OLD_AUDIT_RULES, f"auditctl -R {OLD_AUDIT_RULES}") if is_old else (AUDIT_RULES, "augenrules --load")
    edit = Edit(path, lines(*rules), mode=None if is_old else 0o640)
    return Change("audit watches what decides about guests", (edit,), activate=(load,), preview=_AUDITS)


def _is_here(host: Host, path: str) -> bool:
    seen = host.paths.at(path)
    return isinstance(seen, Known) and seen.value.kind != "l" and re.fullmatch(r"/[\w./+-]+", path) is not None


@fix("LOG-03")
def libvirt_is_audited(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Records of libvirt go to auditd, and into its own log where auditd takes none."""
    if result.subject not in need(host.libvirt.daemons, absent={}):
        return None
    audit = host.logging.audit
    listens = isinstance(audit, Known) and audit.value.pid and audit.value.enabled
    values = {"audit_level": "1", **({} if listens else {"audit_logging": "1"})}
    return Change(
        f"{result.subject} writes audit records",
        (Edit(f"/etc/libvirt/{result.subject}.conf", assignments(values)),),
        activate=(libvirt_restarted(),),
    )


@fix("LOG-04")
def logs_leave_the_host(result: Result, host: Host, profile: Profile) -> Change | None:
    """What rsyslog is told goes to the profile's log server, over TLS, and is kept while that cannot be reached.

    None if the profile names no server or something else keeps the logs, and for targets that somebody has set up.
    """
    server = profile.log_server
    running = {one.name for one in need(host.processes.all)}
    if result.subject or server is None or "rsyslogd" not in running or not _is_sound(server):
        return None
    text = _RSYSLOG.format(host=server.host, port=server.port, ca=server.ca)
    return Change(
        f"logs leave the host for {server.host}, over TLS",
        (Edit(RSYSLOG_DROP_IN, whole(text), mode=0o644),),
        activate=(f"rsyslogd -N 1 && {restarted('rsyslog')}",),
        preview=_TLS_IS_THERE.format(ca=words(server.ca)),
        note="the name in the server's certificate must be this one",
    )


def _is_sound(server: LogServer) -> bool:
    host, ca = re.fullmatch(r"[A-Za-z0-9.:-]+", server.host), re.fullmatch(r"/[\w./-]+", server.ca)
    return bool(host and ca) and 0 < server.port < 65536


@fix("LOG-06")
def time_is_kept(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """The clock follows the profile's time servers, or what the installed program follows by itself.

    None if there is no such program, and for a clock that is far off: a jump can harm what runs.
    """
    units = need(host.units.all, absent={})
    running = next((unit for unit in _KEEPERS if unit in units and units[unit].active), "")
    unit = running or next((unit for unit in _KEEPERS if unit in units and units[unit].enabled in _INSTALLED), "")
    servers = [name for name in profile.time_servers if re.fullmatch(r"[A-Za-z0-9.:-]+", name)]
    clock = host.logging.clock
    if not unit or (isinstance(clock, Known) and clock.value.synchronised) or (running and not servers):
        return None
    wants: list[Want] = [_follow(_KEEPERS[unit], servers, host)] if servers else []
    if not running:
        wants.append(switched_on(host, unit))
    name = unit.removesuffix(".service")
    return Change("the clock is kept", tuple(wants), activate=(restarted(name),) if servers else ())


def _follow(program: str, servers: list[str], host: Host) -> Edit:
    debian = reads_folder(host)
    if program == "systemd":
        return Edit("/etc/systemd/timesyncd.conf", in_section("Time", {"NTP": " ".join(servers)}), mode=0o644)
    paths = {("chrony", True): "/etc/chrony/chrony.conf", ("ntpd", True): "/etc/ntpsec/ntp.conf"}
    path = paths.get((program, debian), {"chrony": "/etc/chrony.conf", "ntpd": "/etc/ntp.conf"}[program])
    return Edit(path, lines(*(f"server {name} iburst" for name in servers)))


@fix("LOG-07")
def console_logs_are_bounded(result: Result, host: Host, profile: Profile) -> Change | None:
    """What guests print fills no disk of the host, and others cannot read it."""
    path = result.subject
    if path == "qemu":
        return _through_virtlogd(host, profile)
    if path == "xenconsoled":
        return Change("logs of Xen's consoles are rotated", (Edit(XEN_ROTATION, whole(_ROTATION), mode=0o644),))
    if not path.startswith("/var/log/xen/console/"):
        return None
    return Change(f"others cannot read {path}", (Permissions(path, at_most=0o7770),))


def _through_virtlogd(host: Host, profile: Profile) -> Change:
    settings = need(host.libvirt.daemons, absent={}).get("virtlogd", {})
    size, backups = (int(str(settings.get(key, default))) for key, default in DEFAULT_LOG.items())
    limit = profile.limits.console_log_mib << 20
    wants: list[Want] = []
    activate: list[str] = []
    if need(host.libvirt.qemu, absent={}).get("stdio_handler", "logd") != "logd":
        wants.append(Edit("/etc/libvirt/qemu.conf", assignments({"stdio_handler": '"logd"'})))
        activate.append(libvirt_restarted())
    if size <= 0 or size * (backups + 1) > limit:
        wants.append(Edit("/etc/libvirt/virtlogd.conf", _bounded(limit), mode=0o600))
        activate.append(f"with_guests {reloaded('virtlogd')}")
    note = "in force for guests that are started from now on"
    return Change("logs of guests' consoles are bounded", tuple(wants), activate=tuple(activate), note=note)


def _bounded(limit: int) -> Rewrite:
    backups = DEFAULT_LOG["max_backups"]
    size = min(DEFAULT_LOG["max_size"], limit // (backups + 1))
    return assignments({"max_size": str(size), "max_backups": str(backups)})
