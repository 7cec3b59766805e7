# SPDX-License-Identifier: Apache-2.0
"""Audits: hosts are looked at and judged, and two audits compared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from donjon.audit.advisories.data import Advisories
from donjon.audit.catalogue import catalogue
from donjon.audit.diff import compare
from donjon.audit.facts.host import Host
from donjon.audit.judge import judge
from donjon.audit.profile import load_profile
from donjon.audit.report.formats import render
from donjon.audit.report.report import Report, load_report, make_report
from donjon.audit.waivers import load_waivers
from donjon.cli.commands.audit_beside import Beside
from donjon.cli.commands.audit_hosts import Places, look_at
from donjon.cli.commands.audit_result import AuditDiff, Audited, parse_fail_on
from donjon.cli.options import COMMON, Common, Given
from donjon.cli.session import Session
from donjon.errors import ConfigError
from donjon.images.new_file import new_file

Format = Literal["text", "json", "html", "sarif", "junit", "ocsf", "oscal", "csv"]

_Form = Annotated[Format, Parameter(help="Form: text, json, html, sarif, junit, ocsf, oscal or csv.")]
_BUNDLE = "Judge what was seen before: a file of `donjon audit collect`, or a sosreport; may be repeated."
_FAIL_ON = (
    "Severity from which on the exit code says so (else high), or never; `new`: only what the baseline does not have;"
    " `unknown`: also if something could not be seen."
)
_FAIL_ON_CHANGE = "Severity from which on what is new counts (else all), or never; `unknown`: lost visibility, too."


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What hosts are judged against."""

    profile: Annotated[str, Parameter(metavar="NAME|FILE")] = "auto"
    """Profile: one of `donjon audit profile list`, or a TOML file."""

    waivers: Annotated[Path | None, Parameter(metavar="FILE")] = None
    """Findings that somebody answers for, a TOML file."""

    baseline: Annotated[Path | None, Parameter(metavar="REPORT")] = None
    """Report in JSON: what is new since then is marked."""

    control: Annotated[tuple[str, ...], Parameter(metavar="ID")] = ()
    """Judge only this control; may be repeated."""

    def controls(self) -> tuple[str, ...]:
        """The controls that are meant. Raises ConfigError if there is no such control."""
        strange = [one for one in self.control if one not in {known.id for known in catalogue().controls}]
        if strange:
            raise ConfigError(
                f"cannot judge {strange[0]}: there is no such control", hint="see `donjon audit controls`"
            )
        return self.control


_PLACES, _BESIDE, _AGAINST = Places(), Beside(), Against()


def run(
    *,
    places: Places = _PLACES,
    bundle: Annotated[tuple[Path, ...], Parameter(metavar="FILE", help=_BUNDLE)] = (),
    beside: Beside = _BESIDE,
    against: Against = _AGAINST,
    format: _Form = "text",
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], metavar="FILE", help="Takes the report; must not exist yet.")
    ] = None,
    fail_on: Annotated[str, Parameter(metavar="WORDS", help=_FAIL_ON)] = "high",
    common: Common = COMMON,
    program: Given,
) -> Audited:
    """Look at hosts, judge them, and report.

    Without --host and --bundle, at this host. Nothing is installed and nothing is changed on a host. What cannot be
    seen is unknown, never passed. Ends with 20 if something fails that --fail-on names, with 21 if it names `unknown`
    and something could not be seen, and with 3 if a host could not be looked at.

    Examples:
        donjon audit

        donjon audit run --host ssh://admin@kvm1 --host ssh://admin@kvm2 --profile kvm-cluster

        donjon audit run --bundle kvm1.tar --format html -o kvm1.html

        donjon audit run --baseline last.json --fail-on new,high
    """
    wanted = parse_fail_on(fail_on)
    if output and output.exists():
        raise ConfigError(f"cannot write {output}: it exists", hint="name another file, or remove it")
    session = Session(common, program)
    looked = look_at(places, bundle, common)
    fleet = beside.added_to(looked.hosts, session)
    report = _judged(fleet, against, beside.known_holes(session))
    document = None
    if format != "text":
        document = render(report, format)
        if output:
            _write(output, document)
    elif output:
        raise ConfigError("cannot write text to a file", hint="choose a --format, or redirect standard output")
    return Audited(
        report=report,
        not_collected=looked.failed,
        written=(str(output),) if output else (),
        document=document.decode() if document is not None and output is None and not common.json else None,
        verdict=wanted.exit_code(report),
    )


def report(
    file: Annotated[Path, Parameter(metavar="REPORT", help="Report in JSON.")],
    /,
    *,
    format: _Form = "text",
    common: Common = COMMON,
) -> Audited:
    """Show a report again, or write it in another form.

    Examples:
        donjon audit report last.json

        donjon audit report last.json --format html >last.html
    """
    del common
    loaded = load_report(file)
    document = None if format == "text" else render(loaded, format).decode()
    return Audited(loaded, (), (), document, 0)


def diff(
    before: Annotated[Path, Parameter(metavar="BEFORE", help="The older report in JSON.")],
    now: Annotated[Path, Parameter(metavar="NOW", help="The newer report in JSON.")],
    /,
    *,
    fail_on: Annotated[str, Parameter(metavar="WORDS", help=_FAIL_ON_CHANGE)] = "info",
    common: Common = COMMON,
) -> AuditDiff:
    """Show what changed between two audits: new, fixed, unchanged, other evidence, lost visibility, gone.

    Ends with 20 if something new fails that is as severe as --fail-on says.

    Examples:
        donjon audit diff monday.json tuesday.json
    """
    del common
    wanted = parse_fail_on(fail_on)
    older, newer = load_report(before), load_report(now)
    changes = compare([one.result for one in older.findings], [one.result for one in newer.findings])
    hosts = {host.id: host.name for host in (*older.hosts, *newer.hosts)}
    return AuditDiff(str(before), str(now), changes, hosts, wanted.exit_code_of_changes(changes))


def _judged(fleet: tuple[Host, ...], against: Against, advisories: Advisories | None) -> Report:
    profile = load_profile(against.profile)
    waivers = load_waivers(against.waivers) if against.waivers else ()
    baseline = load_report(against.baseline) if against.baseline else None
    judgement = judge(fleet, profile, datetime.now(UTC).date(), against.controls(), advisories)
    return make_report(judgement, fleet, waivers, baseline)


def _write(path: Path, document: bytes) -> None:
    with new_file(path, exist_ok=False) as unfinished:
        unfinished.write_bytes(document)
