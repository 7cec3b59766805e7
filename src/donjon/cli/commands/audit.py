# SPDX-License-Identifier: Apache-2.0
"""Audits: hosts are looked at and judged, and two audits compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from donjon.audit.diff import compare
from donjon.audit.report.formats import render
from donjon.audit.report.report import Report, load_report, make_report
from donjon.cli.commands.audit_against import Against
from donjon.cli.commands.audit_beside import Beside
from donjon.cli.commands.audit_hosts import Bundles, Places, look_at
from donjon.cli.commands.audit_result import AuditDiff, Audited, NotCollected, parse_fail_on
from donjon.cli.options import COMMON, Common, Given
from donjon.cli.output import check_new, write_new
from donjon.cli.session import Session
from donjon.errors import ConfigError

Format = Literal["text", "json", "html", "sarif", "junit", "ocsf", "oscal", "csv"]

_Form = Annotated[Format, Parameter(help="Form: text, json, html, sarif, junit, ocsf, oscal or csv.")]
_Output = Annotated[
    Path | None, Parameter(name=["--output", "-o"], metavar="FILE", help="Takes the report; must be new.")
]
_FAIL_ON = (
    "Severity from which on the exit code says so (else high), or never; `new`: only what the baseline does not have;"
    " `unknown`: also if something could not be seen."
)
_FAIL_ON_CHANGE = "Severity from which on what is new counts (else all), or never; `unknown`: lost visibility, too."


_PLACES, _BESIDE, _AGAINST = Places(), Beside(), Against()


def run(
    *,
    places: Places = _PLACES,
    bundle: Bundles = (),
    beside: Beside = _BESIDE,
    against: Against = _AGAINST,
    format: _Form = "text",
    output: _Output = None,
    baseline: Annotated[
        Path | None, Parameter(metavar="REPORT", help="Report in JSON: what is new since then is marked.")
    ] = None,
    fail_on: Annotated[str, Parameter(metavar="WORDS", help=_FAIL_ON)] = "high",
    common: Common = COMMON,
    program: Given,
) -> Audited:
    """Look at hosts, judge them, and report.

    Without --host and --bundle, at this host. Nothing is installed and nothing is changed on a host. What cannot be
    seen is unknown, never passed. Ends with 20 if something fails that --fail-on names, with 21 if it names `unknown`
    and something could not be seen, and with 3 if a host could not be looked at. What is waived is shown, and ends
    nothing.

    Examples:
        donjon audit

        donjon audit run --host ssh://admin@kvm1 --host ssh://admin@kvm2 --profile kvm-cluster

        donjon audit run --bundle kvm1.tar --format html -o kvm1.html

        donjon audit run --baseline last.json --fail-on new,high
    """
    wanted = parse_fail_on(fail_on)
    if wanted.only_new and baseline is None:
        raise ConfigError("cannot tell what is new: there is nothing to compare with", hint="say --baseline REPORT")
    _check_output(format, output)
    criteria, before = against.load(), load_report(baseline) if baseline else None
    session = Session(common, program)
    advisories, gold = beside.known_holes(session), beside.gold_images()
    looked = look_at(places, bundle, session)
    known = beside.with_disks(beside.with_backups(looked.hosts, session))
    fleet = tuple(msgspec.structs.replace(host, gold=gold) for host in known)
    made = make_report(criteria.judge(fleet, advisories), fleet, criteria.waivers, before)
    return _handed_over(made, format, output, common, looked.failed, wanted.exit_code(made))


def report(
    file: Annotated[Path, Parameter(metavar="REPORT", help="Report in JSON.")],
    /,
    *,
    format: _Form = "text",
    output: _Output = None,
    common: Common = COMMON,
) -> Audited:
    """Show a report again, or write it in another form.

    Examples:
        donjon audit report last.json

        donjon audit report last.json --format html -o last.html
    """
    _check_output(format, output)
    return _handed_over(load_report(file), format, output, common)


def diff(
    before: Annotated[Path, Parameter(metavar="BEFORE", help="The older report in JSON.")],
    now: Annotated[Path, Parameter(metavar="NOW", help="The newer report in JSON.")],
    /,
    *,
    fail_on: Annotated[str, Parameter(metavar="WORDS", help=_FAIL_ON_CHANGE)] = "info",
    common: Common = COMMON,
) -> AuditDiff:
    """Show what changed between two audits: new, fixed, unchanged, other evidence, lost visibility, gone.

    Ends with 20 if something new fails that is as severe as --fail-on says. What is waived in the newer report is shown
    as such, and ends nothing.

    Examples:
        donjon audit diff monday.json tuesday.json
    """
    del common
    wanted = parse_fail_on(fail_on)
    older, newer = load_report(before), load_report(now)
    changes = compare([one.result for one in older.findings], [one.result for one in newer.findings])
    hosts = {host.id: host.name for host in (*older.hosts, *newer.hosts)}
    waivers = {one.result.fingerprint: one.waiver for one in newer.findings if one.waiver}
    verdict = wanted.exit_code_of_changes(one for one in changes if one.result.fingerprint not in waivers)
    return AuditDiff(str(before), str(now), changes, hosts, waivers, verdict)


def _check_output(format: Format, output: Path | None) -> None:
    """Before anything is done in vain. Raises ConfigError."""
    if output and format == "text":
        raise ConfigError("cannot write text to a file", hint="choose a --format, or redirect standard output")
    if output:
        check_new(output)


def _handed_over(
    made: Report,
    format: Format,
    output: Path | None,
    common: Common,
    failed: tuple[NotCollected, ...] = (),
    verdict: int = 0,
) -> Audited:
    """The report, in the form that is asked for, where it is asked for; with --json, the object says it all."""
    if output:
        write_new(output, render(made, format))
    printed = format != "text" and output is None and not common.json
    return Audited(
        report=made,
        not_collected=failed,
        written=(str(output),) if output else (),
        document=render(made, format).decode() if printed else None,
        verdict=verdict,
    )
