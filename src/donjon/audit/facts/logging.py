# SPDX-License-Identifier: Apache-2.0
"""Audit, logs and time.

Sources: auditctl(8) and what old versions print ("AUDIT_STATUS: enabled=1", "LIST_RULES: exit,always watch=..."),
rsyslog's omfwd and omrelp, syslog.conf(5), syslog-ng's network drivers, journal-upload.conf(5), audisp-remote.conf(5),
chronyc(1), ntpq(8).
"""

from __future__ import annotations

import re

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown, derived
from donjon.audit.facts.log_targets import LogTarget, read_targets

Watch = tuple[str, str]
"""A path and the accesses that are recorded ("wa", "x"); "*" for programs wherever they are."""


class AuditStatus(Struct, frozen=True):
    """Of the kernel: `enabled` 0 off, 1 on, 2 locked; `pid` of auditd, 0 if none listens."""

    enabled: int
    pid: int


class Clock(Struct, frozen=True):
    """What keeps the time: chrony, ntpd or systemd; `offset` in seconds, None if it does not say."""

    program: str
    synchronised: bool
    sources: int
    offset: float | None = None


class SecretPlace(Struct, frozen=True):
    """Where a secret can be read: `where` is a program's name or a log's path."""

    where: str
    kind: str
    pid: int = 0


class Logging(Struct, frozen=True):
    """`audit` and `watches` (the rules in force): Absent if there is no auditctl; `rotation`: files of logrotate."""

    audit: Fact[AuditStatus]
    watches: Fact[tuple[Watch, ...]]
    targets: Fact[tuple[LogTarget, ...]]
    clock: Fact[Clock]
    secrets: Fact[tuple[SecretPlace, ...]]
    rotation: Fact[dict[str, str]]


def read_logging(bundle: Bundle) -> Logging:
    """From auditctl, the configuration of log daemons, and what keeps the time."""
    return Logging(
        audit=derived(bundle.output("audit-status"), parse_audit_status),
        watches=_watches(bundle),
        targets=read_targets(bundle),
        clock=_clock(bundle),
        secrets=derived(bundle.output("secret-places"), _parse_secrets),
        rotation=bundle.texts("/etc/logrotate.d/*"),
    )


def parse_audit_status(text: str) -> AuditStatus:
    """The answer of auditctl -s, new (a line each) or old (all on one line)."""
    found = {name: int(number) for name, number in re.findall(r"\b(enabled|pid)[ =](\d+)", text)}
    return AuditStatus(found["enabled"], found["pid"])


def _watches(bundle: Bundle) -> Fact[tuple[Watch, ...]]:
    running = bundle.output("audit-rules")
    if not isinstance(running, Absent):
        return derived(running, parse_audit_rules)
    return running


def parse_audit_rules(text: str) -> tuple[Watch, ...]:
    """What rules of audit watch.

    Raises:
        ValueError: a line is none.
    """
    found: list[Watch] = []
    for line in text.splitlines():
        if not re.match(r"\s*(-[a-zA-Z] |--|LIST_RULES:|No rules|#|$)", line):
            raise ValueError(f"not a rule: {line[:40]!r}")
        if re.search(r"\bnever\b|\b[aefs]?[ug]id=", line):
            continue  # suppresses, or holds for one user only
        path = re.search(r"(?:-w\s+|-F\s+(?:path|dir|exe)=|\b(?:watch|dir|path)=)(/\S*)", line)
        perm = re.search(r"(?:-p\s+|perm=)([rwxa]+)", line)
        calls = re.search(r"-S\s+(\S+)|syscall=(\S+)", line)
        if path:
            found.append((path[1].rstrip("/") or "/", perm[1] if perm else "x" if calls else "rwxa"))
        elif calls and "execve" in (calls[1] or calls[2]):
            found.append(("*", "x"))
    return tuple(found)


def _clock(bundle: Bundle) -> Fact[Clock]:
    """The first that answers; Absent if there is no program that keeps the time."""
    chrony = _chrony(bundle)
    peers = derived(bundle.output("ntp-peers"), parse_ntp_peers)
    systemd = derived(bundle.output("timedatectl"), _systemd)
    answers: tuple[Fact[Clock], ...] = (chrony, peers, systemd)
    known = [one for one in answers if isinstance(one, Known)]
    if known:
        return next((one for one in known if one.value.synchronised), known[0])
    unknown = [one for one in answers if isinstance(one, Unknown)]
    return unknown[0] if unknown else Absent("chronyc, ntpq, timedatectl")


def _chrony(bundle: Bundle) -> Fact[Clock]:
    tracking, sources = bundle.output("chrony-tracking"), bundle.output("chrony-sources")
    if isinstance(tracking, Known) and isinstance(sources, Known):
        return derived(tracking, lambda text: parse_chrony(text, sources.value))
    return sources if isinstance(tracking, Known) and isinstance(sources, Unknown) else derived(tracking, _nothing)


def _nothing(_: str) -> Clock:
    raise ValueError("chronyc lists no sources")


def parse_chrony(tracking: str, sources: str) -> Clock:
    """The answers of chronyc tracking and chronyc sources; sources that are marked * or + or - were reached."""
    lines = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in tracking.splitlines())}
    offset = re.match(r"([0-9.]+) seconds", lines["System time"])
    if offset is None:
        raise ValueError("chronyc tells no system time")
    reached = re.findall(r"(?m)^[\^=#][*+-] ", sources)
    return Clock("chrony", lines["Leap status"] != "Not synchronised", len(reached), float(offset[1]))


def parse_ntp_peers(text: str) -> Clock:
    """The answer of ntpq -pn: * or o marks the peer that is followed, + those that agree; offset in milliseconds."""
    if "remote" not in text:
        raise ValueError("ntpq lists no peers")
    peers = [line for line in text.splitlines() if line[:1] in {"*", "o", "+", "#"}]
    followed = [line.split() for line in peers if line[:1] in {"*", "o"}]
    offset = abs(float(followed[0][8])) / 1000 if followed else None
    return Clock("ntpd", bool(followed), len(peers), offset)


def _systemd(text: str) -> Clock:
    values = dict(line.split("=", 1) for line in text.splitlines())
    return Clock("systemd", values["NTPSynchronized"] == "yes", 1 if values["NTP"] == "yes" else 0)


def _parse_secrets(text: str) -> tuple[SecretPlace, ...]:
    lines = text.splitlines()
    if not lines or lines[-1] != "end":
        raise ValueError("the list has no end")
    found = []
    for line in lines[:-1]:
        what, *words = line.split("\t")
        if what == "process":
            pid, name, kind = words
            found.append(SecretPlace(name, kind, int(pid)))
        elif what == "log":
            path, kind = words
            found.append(SecretPlace(path, kind))
        elif what == "unread":
            found.append(SecretPlace(words[0], ""))
        else:
            raise ValueError(f"not a place: {line[:40]!r}")
    return tuple(found)
