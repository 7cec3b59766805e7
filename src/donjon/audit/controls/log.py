# SPDX-License-Identifier: Apache-2.0
"""Rules of the area LOG: audit, logs, time, secrets in logs; see the catalogue."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from donjon.audit.control import Context, control
from donjon.audit.controls.modes import others_read
from donjon.audit.fact import Absent, Known, Unknown, need
from donjon.audit.facts.host import Host
from donjon.audit.facts.libvirt import Settings
from donjon.audit.facts.log_targets import LogTarget
from donjon.audit.facts.logging import SecretPlace, Watch
from donjon.audit.profile import Profile
from donjon.audit.verdict import Verdict, each, failed, not_applicable, passed, unknown

WATCHED = (
    "/etc/libvirt",
    "/etc/xen",
    "/etc/ovs-agent",
    "/OVS/Repositories",
    "/var/lib/libvirt/images",
    "/var/lib/xen/images",
)
PROGRAMS = tuple(
    f"/usr/{folder}/{name}"
    for folder, names in (("bin", ("virsh", "xl", "xm", "qemu-img", "qemu-nbd")), ("sbin", ("xl", "xm")))
    for name in names
)
OFFSET_S = 1.0
DEFAULT_LOG = {"max_size": 2 << 20, "max_backups": 3}
"""virtlogd.conf: what holds if it is not set."""


@control("LOG-01")
def audit_runs(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """Without it nobody can tell afterwards who did what on the host."""
    status = host.logging.audit
    if isinstance(status, Absent):
        yield failed("auditd is not installed")
        return
    if not isinstance(status, Known) and _is_container(host):
        yield not_applicable("this is a container: its host audits")
        return
    running = need(status)
    evidence = f"enabled {running.enabled}, pid {running.pid}"
    if "audit=0" in need(host.platform.cmdline, absent=()):
        yield failed("the kernel was told not to audit (audit=0)", status=evidence)
    elif not running.enabled or not running.pid:
        yield failed("auditd does not run, or records nothing", status=evidence)
    elif not _enabled_at_boot(host):
        yield failed("auditd runs, but will not be started at the next boot", status=evidence)
    else:
        yield passed("auditd runs, and is started at boot", status=evidence)


def _is_container(host: Host) -> bool:
    return isinstance(host.units.init, Known) and host.units.init.value == "none"


def _enabled_at_boot(host: Host) -> bool:
    units = need(host.units.all)
    return any(name in units and units[name].enabled == "enabled" for name in ("auditd.service", "auditd"))


@control("LOG-02")
def audit_covers_virtualisation(host: Host, context: Context) -> Iterable[Verdict]:
    """What decides about guests is watched: configuration, images, and the programs that control them."""
    roots = (*WATCHED, *(root for root in context.profile.image_roots if root not in WATCHED))
    here = [path for path in roots if _is_here(host, path)]
    programs = [path for path in PROGRAMS if _is_here(host, path)]
    if not here and not programs:
        yield not_applicable("nothing of it is on this host")
        return
    watches = need(host.logging.watches, absent=())
    missing = [path for path in here if not _covered(path, "w", watches)]
    missing += [path for path in programs if not _covered(path, "x", watches)]
    if missing:
        yield failed(f"audit does not watch {', '.join(missing)}", missing=missing)
    else:
        yield passed("audit watches configuration, images and programs of virtualisation", watched=[*here, *programs])


def _is_here(host: Host, path: str) -> bool:
    """Whether it exists and is no link to another that is asked for, too.

    Raises:
        Unseen: nobody looked.
    """
    found = host.paths.at(path)
    if isinstance(found, Absent):
        return False
    return need(found).kind != "l"


def _covered(path: str, access: str, watches: tuple[Watch, ...]) -> bool:
    return any(
        access in accesses and (place in {path, "*"} or path.startswith(place.rstrip("/") + "/"))
        for place, accesses in watches
    )


@control("LOG-03")
def libvirt_is_audited(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """Who started, stopped and changed guests is written down, if libvirt is let, and if somebody listens."""
    daemons = need(host.libvirt.daemons, absent={})
    present = [name for name in ("libvirtd", "virtqemud") if name in daemons] or ["libvirtd"]
    for name in present:
        yield _judge_audit_level(name, daemons.get(name, {}), host)


def _judge_audit_level(name: str, settings: Settings, host: Host) -> Verdict:
    level, to_log = _number(settings, "audit_level", 1), _number(settings, "audit_logging", 0)
    if level < 1:
        return failed(
            f"{name} writes no audit records (audit_level = 0)", name, audit_level=level, audit_logging=to_log
        )
    if to_log:
        return passed(f"{name} writes audit records into its log", name, audit_level=level, audit_logging=to_log)
    status = host.logging.audit
    if isinstance(status, Absent) or (isinstance(status, Unknown) and _is_container(host)):
        listens = False
    else:
        listens = bool(need(status).pid and need(status).enabled)
    if listens:
        return passed(f"{name} tells auditd", name, audit_level=level, audit_logging=to_log)
    text = f"{name} writes audit records, but auditd does not run and takes none"
    return failed(text, name, lower=1, audit_level=level, audit_logging=to_log)


def _number(settings: Settings, key: str, default: int) -> int:
    value = settings.get(key, default)
    if not isinstance(value, int):
        raise ValueError(f"{key} is not a number")
    return value


@control("LOG-04")
def logs_leave_the_host(host: Host, context: Context) -> Iterable[Verdict]:
    """Who takes the host over cleans its logs, but not those that have left."""
    targets = [one for one in need(host.logging.targets) if not _is_loopback(one.host)]
    running = {process.name for process in need(host.processes.all)}
    active = [one for one in targets if _runs(one.program, running)]
    single = 1 if len(context.fleet) <= 1 else 0
    if not active:
        why = f", because {targets[0].program} does not run" if targets else ""
        yield failed(f"no log leaves the host{why}", lower=single, targets=[one.host for one in targets])
        return
    yield from each(
        active,
        lambda one: _judge_target(one, context.profile),
        subject=lambda one: f"{one.program} {one.host}",
        none="",
    )


def _runs(program: str, running: set[str]) -> bool:
    """The kernel keeps 15 letters of a process's name; audisp-remote runs while auditd does."""
    return any(name[:15] in running for name in (program, {"audisp-remote": "auditd"}.get(program, program)))


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _judge_target(target: LogTarget, profile: Profile) -> Verdict:
    way = f"{target.host} ({target.transport})"
    if target.transport in {"tls", "krb5"}:
        if target.verified:
            return passed("logs leave the host encrypted", target=way)
        return failed(f"logs go to {way}, but whose certificate it is, is not checked", lower=1, target=way)
    try:
        address = ipaddress.ip_address(target.host)
    except ValueError:
        address = None
    if address and any(address in network for network in profile.networks.of("management")):
        return passed("logs leave the host in the clear, but on the management network only", target=way)
    return failed(f"logs go to {way} in the clear, and anybody on the way can read or forge them", target=way)


@control("LOG-06")
def time_is_kept(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """Logs of several hosts can only be read together if their clocks agree; certificates, too."""
    clock = host.logging.clock
    keepers = ("chronyd", "ntpd", "systemd-timesyn", "openntpd")
    if not isinstance(clock, Known):
        names = {process.name for process in need(host.processes.all)}
        if names & set(keepers):
            reason = clock.reason if isinstance(clock, Unknown) else "its tool is not there"
            yield unknown(
                f"{', '.join(sorted(names & set(keepers)))} runs, but what it does could not be seen: {reason}"
            )
        else:
            yield failed("nothing keeps the time: neither chronyd, ntpd nor systemd-timesyncd runs")
        return
    found = clock.value
    if not found.synchronised:
        yield failed("the clock is not synchronised", program=found.program, sources=found.sources)
    elif found.offset is not None and found.offset > OFFSET_S:
        yield failed(f"the clock is {found.offset:.1f} s off", program=found.program, sources=found.sources)
    else:
        offset = "not told" if found.offset is None else f"{found.offset:.6f} s"
        yield passed("the clock is synchronised", program=found.program, sources=found.sources, offset=offset)


@control("LOG-07")
def console_logs_are_bounded(host: Host, context: Context) -> Iterable[Verdict]:
    """What a guest prints on its console is stored on the host, until its disk is full."""
    kinds = need(host.platform.kinds)
    if "K" in kinds:
        yield _judge_qemu_logs(host, context.profile)
    if "X" in kinds or "O" in kinds:
        yield from _judge_xen_logs(host)


def _judge_qemu_logs(host: Host, profile: Profile) -> Verdict:
    handler = need(host.libvirt.qemu, absent={}).get("stdio_handler", "logd")
    if handler != "logd":
        return failed(
            "QEMU writes console logs itself (stdio_handler = file), without limit", "qemu", stdio_handler=handler
        )
    settings = need(host.libvirt.daemons, absent={}).get("virtlogd", {})
    size, backups = (_number(settings, key, default) for key, default in DEFAULT_LOG.items())
    limit = profile.limits.console_log_mib << 20
    total = size * (backups + 1)
    if size <= 0 or total > limit:
        shown = f"{total >> 20} MiB" if size > 0 else "no limit"
        return failed(f"virtlogd lets each guest's log have {shown}", "qemu", max_size=size, max_backups=backups)
    return passed(f"each guest's log has at most {total >> 20} MiB", "qemu", max_size=size, max_backups=backups)


def _judge_xen_logs(host: Host) -> Iterator[Verdict]:
    daemons = [one for one in need(host.processes.all) if one.name == "xenconsoled"]
    told = [argument for one in daemons for argument in one.arguments if argument.startswith("--log=")]
    logs_guests = any(argument.removeprefix("--log=") in {"guest", "all", "both"} for argument in told)
    below = host.paths.below("/var/log/xen/console")
    files = need(below, absent=())
    readable = [one for one in files if one.kind == "f" and others_read(host.paths, one)]
    for one in readable:
        yield failed(f"everybody on the host can read {one.path}, what a guest printed", one.path, mode=one.shown)
    if not logs_guests and not files:
        yield not_applicable("xenconsoled keeps no logs of guests", "xenconsoled")
    elif logs_guests and not _rotated(host):
        yield failed("xenconsoled logs what guests print, and nothing rotates it", "xenconsoled", arguments=told)
    elif not readable:
        yield passed("logs of guests' consoles are rotated and private", "xenconsoled", files=len(files))


def _rotated(host: Host) -> bool:
    return any("/var/log/xen/console" in text for text in need(host.logging.rotation).values())


@control("LOG-08")
def no_secret_in_the_open(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """Arguments are readable for everybody on the host, and logs are kept, copied and shipped."""
    places = need(host.logging.secrets)
    if not places:
        yield passed("no secret was found in arguments of processes or in logs of guests")
    for place in dict.fromkeys(places):
        yield _judge_place(place)


def _judge_place(place: SecretPlace) -> Verdict:
    if not place.kind:
        return unknown(f"{place.where} may not be read", place.where)
    what, subject = place.kind.replace("-", " "), f"{place.where} {place.kind}"
    if place.pid:
        return failed(
            f"a secret ({what}) is in the arguments of {place.where}", subject, pid=place.pid, kind=place.kind
        )
    return failed(f"a secret ({what}) is in {place.where}", subject, log=place.where, kind=place.kind)
