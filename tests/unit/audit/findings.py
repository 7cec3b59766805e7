# SPDX-License-Identifier: Apache-2.0
"""Results and reports to test with."""

from __future__ import annotations

from datetime import date

from donjon.audit.bundle import Bundle, Manifest, Output
from donjon.audit.facts.host import Host, read_host
from donjon.audit.judge import Judgement, Result
from donjon.audit.report.report import Report, make_report
from donjon.audit.verdict import Severity, Status
from donjon.audit.waivers import Waiver

TODAY = date(2026, 11, 23)


def host(name: str = "kvm1") -> Host:
    commands = {"hypervisors": Output(0, "libvirt-qemu"), "machine-id": Output(0, name)}
    return read_host(Bundle(Manifest(host=name, started="2026-11-20T10:00:00+00:00"), commands))


HOST = host().platform.id


def result(
    control: str = "GST-01",
    status: Status = Status.FAIL,
    *,
    subject: str = "0b1c",
    name: str = "web1",
    severity: Severity = Severity.HIGH,
    evidence: str = "0.0.0.0",
    summary: str = "VNC of web1 listens on 0.0.0.0",
) -> Result:
    return Result(
        control=control,
        host=HOST,
        subject=subject,
        name=name,
        status=status,
        severity=severity,
        summary=summary,
        evidence={"listen": evidence},
        fingerprint=f"{control}/{HOST}/{subject}",
        evidence_digest=evidence,
    )


def waiver(
    control: str = "GST-01",
    subject: str = "web*",
    host: str = "kvm*",
    *,
    created: date = date(2026, 11, 1),
    expires: date = date(2026, 12, 1),
    evidence: str | None = None,
) -> Waiver:
    return Waiver(control, subject, host, "being rebuilt", "ann", created, expires, evidence)


def report(*results: Result, waivers: tuple[Waiver, ...] = (), baseline: Report | None = None) -> Report:
    judgement = Judgement("auto", TODAY, {HOST: "kvm1"}, results, ("BOOT-02",))
    return make_report(judgement, [host()], waivers, baseline)
