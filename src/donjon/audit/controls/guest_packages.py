# SPDX-License-Identifier: Apache-2.0
"""Judges the packages of a guest by the advisories of its distribution; shared by gold images and guests."""

from __future__ import annotations

from donjon.audit.advisories.data import vulnerable
from donjon.audit.control import Context
from donjon.audit.fact import need
from donjon.audit.facts.guests import Guest
from donjon.audit.verdict import Severity, Verdict, failed, passed, unknown

_SHOWN = 5


def judge_packages(guest: Guest, name: str, context: Context) -> Verdict:
    """Fail for vulnerabilities of high severity or known to be exploited for which there is a fix.

    Raises:
        Unseen: packages or release of the guest are not known.
    """
    packages, release = need(guest.packages.all), need(guest.release)
    advisories = context.advisories
    if advisories is None:
        return unknown("no advisories were imported")
    age, allowed = advisories.age_days(context.today), context.profile.ages.advisories
    if age > allowed:
        return unknown(f"the advisories are {age} days old, {allowed} are allowed")
    try:
        found = vulnerable(packages, release, advisories)
    except LookupError as error:
        return unknown(str(error))
    bad = [one for one in found if one.fixed and one.severity.rank <= Severity.HIGH.rank]
    if not bad:
        return passed(f"no package of {name} has a hole of high severity that is fixed", packages=len(packages))
    names = list(dict.fromkeys(one.package for one in bad))
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    worst = Severity.CRITICAL if any(one.exploited for one in bad) else None
    return failed(
        f"{name} lacks security updates of {shown}",
        severity=worst,
        packages=names,
        cves=sorted({cve for one in bad for cve in one.cves}),
    )
