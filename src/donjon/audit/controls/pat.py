# SPDX-License-Identifier: Apache-2.0
"""Rules of the area PAT: what waits to be installed, and what is known to be vulnerable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sized
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from donjon.audit.advisories.data import Advisories, Vulnerable, release_key, vulnerable
from donjon.audit.control import Context, control
from donjon.audit.controls import pat_running
from donjon.audit.fact import Absent, Known, Unseen, need
from donjon.audit.facts.host import Host
from donjon.audit.facts.packages import Package
from donjon.audit.facts.sources import WeakSource
from donjon.audit.facts.updates import Update
from donjon.audit.tables import support_ends, xen_advisories
from donjon.audit.verdict import Severity, Verdict, each, failed, not_applicable, passed, unknown

__all__ = ["pat_running"]

VIRTUALISATION = (
    *(
        "qemu*",
        "libvirt*",
        "xen*",
        "libxen*",
        "kernel*",
        "linux-image*",
        "seabios*",
        "ovmf",
        "edk2*",
        "swtpm*",
        "libtpms*",
    ),
    *(
        "dnsmasq*",
        "openvswitch*",
        "ovs-agent*",
        "virtiofsd",
        "ipxe*",
        "qboot",
        "sgabios*",
        "libslirp*",
        "libvirglrenderer*",
    ),
)
"""Packages that guests can reach, or that run them."""
SHOWN = 10
WARN_DAYS = 180
_WORDS = {"critical": "critical", "important": "high", "high": "high", "moderate": "medium", "medium": "medium"}
_XEN_SOURCES = frozenset({"xen", "xen-hypervisor"})


@control("PAT-01")
def no_virtualisation_update_waits(host: Host, context: Context) -> Iterable[Verdict]:
    """What guests talk to is patched first."""
    yield _waiting(host, context, virtualisation=True)


@control("PAT-02")
def no_other_update_waits(host: Host, context: Context) -> Iterable[Verdict]:
    """The rest of the host is the way to it, too."""
    yield _waiting(host, context, virtualisation=False)


def _waiting(host: Host, context: Context, *, virtualisation: bool) -> Verdict:
    """A failure is one whatever the age of what the package manager knows; a pass needs it fresh."""
    waiting = [one for one in need(host.updates.pending) if _is_virtualisation(one.name) == virtualisation]
    of_what = "of virtualisation packages" if virtualisation else "of other packages"
    if waiting:
        words = [_WORDS.get(one.severity.lower(), "low") for one in waiting if one.severity]
        severity = min(map(Severity, words), key=lambda one: one.rank) if words else None
        said = _count(waiting, f"security update {of_what} waits", f"security updates {of_what} wait")
        return failed(
            f"{said}: {_list([_shown(one) for one in waiting])}",
            severity=severity,
            packages=[_shown(one) for one in waiting],
            advisories=sorted({one.advisory for one in waiting} - {""}),
        )
    stale = _stale_metadata(host, context)
    if stale:
        return unknown(f"no security update {of_what} is known, but {stale}")
    return passed(f"no security update {of_what} waits")


def _is_virtualisation(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in VIRTUALISATION)


def _shown(update: Update) -> str:
    return f"{update.name} {update.installed} -> {update.offered}"


def _count(things: Sized, one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}"


def _holes(cves: Sized) -> str:
    return _count(cves, "known vulnerability", "known vulnerabilities")


def _list(words: list[str]) -> str:
    more = f", and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more


def _stale_metadata(host: Host, context: Context) -> str:
    """Why the package manager's knowledge cannot be believed; "" if it can."""
    if isinstance(host.updates.refreshed, Absent):
        return "the package manager never heard of any update"
    days = _metadata_age(host, context)
    limit = context.profile.ages.update_metadata
    return f"what the package manager knows is {days} days old ({limit} are allowed)" if days > limit else ""


def _metadata_age(host: Host, context: Context) -> int:
    """In days, at the time of the audit: a bundle may be old itself."""
    refreshed = datetime.fromtimestamp(need(host.updates.refreshed), UTC).date()
    return (context.today - refreshed).days


@control("PAT-03")
def metadata_is_fresh(host: Host, context: Context) -> Iterable[Verdict]:
    """Old knowledge of updates looks like a host without updates."""
    stale = _stale_metadata(host, context)
    if stale:
        yield failed(stale, "package manager", days=_age_or_never(host, context))
    else:
        days = _metadata_age(host, context)
        yield passed(f"what the package manager knows is {days} days old", "package manager", days=days)
    if context.advisories is None:
        yield not_applicable("no advisories were imported", "advisories")
        return
    age, limit = context.advisories.age_days(context.today), context.profile.ages.advisories
    say = failed if age > limit else passed
    yield say(f"the imported advisories are {age} days old ({limit} are allowed)", "advisories", days=age)


def _age_or_never(host: Host, context: Context) -> str:
    return str(_metadata_age(host, context)) if isinstance(host.updates.refreshed, Known) else "never"


@control("PAT-04")
def no_known_vulnerability(host: Host, context: Context) -> Iterable[Verdict]:
    """What attackers know of installed packages, without a network."""
    advisories = _fresh(context)
    release = need(host.platform.release)
    if advisories.of(release) is None:
        yield unknown(f"the imported advisories say nothing of {release.pretty or release.id}")
        return
    installed = need(host.packages.all)
    found = vulnerable(installed, release, advisories)
    fixable: dict[tuple[str, str], list[Vulnerable]] = {}
    for one in found:
        if one.fixed:
            fixable.setdefault((one.source, one.installed), []).append(one)
    for (source, _), several in fixable.items():
        yield _of_package(source, several)
    unfixed = sorted({cve for one in found if not one.fixed for cve in one.cves})
    if unfixed:
        yield failed(
            f"no fix is there yet for {_holes(unfixed)}: {_list(unfixed)}",
            "without a fix",
            severity=Severity.INFO,
            cves=unfixed,
        )
    if not fixable:
        yield passed("no installed package has a known vulnerability with a fix", feed=str(advisories.built))


def _of_package(source: str, found: list[Vulnerable]) -> Verdict:
    worst = min(found, key=lambda one: one.severity.rank)
    cves = sorted({cve for one in found for cve in one.cves})
    exploited = sorted({cve for one in found if one.exploited for cve in one.cves})
    attacked = f"; attackers use {', '.join(exploited)}" if exploited else ""
    return failed(
        f"{source} {worst.installed} has {_holes(cves)} with a fix: {_list(cves)}{attacked}",
        source,
        severity=worst.severity,
        packages={one.package for one in found},
        installed=worst.installed,
        fixed={one.fixed for one in found},
        advisories={one.advisory for one in found},
        cves=cves,
    )


def _fresh(context: Context) -> Advisories:
    if context.advisories is None:
        raise Unseen("no advisories were imported: donjon advisories import")
    age, limit = context.advisories.age_days(context.today), context.profile.ages.advisories
    if age > limit:
        raise Unseen(f"the imported advisories are {age} days old ({limit} are allowed)")
    return context.advisories


@control("PAT-05")
def no_xen_advisory_is_open(host: Host, context: Context) -> Iterable[Verdict]:
    """The table of upstream fixes can only fail a host; only the distribution's own feed can pass it."""
    xen = need(host.updates.xen)
    fixed, patches = need(host.updates.xen_fixed, absent=()), need(host.updates.xen_live_patches, absent=())
    live = " ".join(patches)
    known = set(fixed)
    known.update(f"XSA-{number}" for number in re.findall(r"xsa-?(\d+)", live, re.IGNORECASE))
    missing = [one for one in xen_advisories().fixed_after(xen.release) if one not in known]
    if missing and not xen.extra.strip():
        yield failed(
            f"Xen {xen.release} lacks the fixes of {_count(missing, 'advisory', 'advisories')}: {_list(missing)}",
            release=xen.release,
            advisories=missing,
            table=xen_advisories().dated,
        )
        return
    if missing:
        yield unknown(
            f"Xen {xen.release}{xen.extra} is a vendor's build: upstream fixed {len(missing)} advisories since"
        )
        return
    yield _by_distribution(host, context, xen.release)


def _by_distribution(host: Host, context: Context, xen_release: str) -> Verdict:
    advisories, release = _fresh(context), need(host.platform.release)
    packages = need(host.packages.all)
    of_xen = {key: one for key, one in packages.items() if _is_xen(one)}
    if advisories.of(release) is None or not of_xen:
        return unknown(f"no advisories say whether Xen {xen_release} of this distribution is without known holes")
    holes = [one for one in vulnerable(of_xen, release, advisories) if one.fixed]
    if holes:
        cves = sorted({cve for one in holes for cve in one.cves})
        return failed(f"Xen {holes[0].installed} lacks the fixes of {_list(cves)}", fixed=holes[0].fixed, cves=cves)
    return passed(f"Xen {xen_release} has all fixes that its distribution knows of", feed=advisories.built)


def _is_xen(package: Package) -> bool:
    return package.source in _XEN_SOURCES or package.name in _XEN_SOURCES


@control("PAT-10")
def release_is_supported(host: Host, context: Context) -> Iterable[Verdict]:
    """Nobody fixes a release whose support has ended."""
    release = need(host.platform.release)
    key = release_key(release.id, release.version)
    end = {**support_ends().ends, **context.profile.support_ends}.get(key)
    name = release.pretty or key
    if end is None:
        yield unknown(f"donjon does not know until when {name} is supported; say it in the profile: support_ends")
        return
    left = (end - context.today).days
    if left < 0:
        yield failed(f"{name} has had no security updates since {end}", release=key, ended=end)
    elif left < WARN_DAYS:
        yield failed(f"{name} gets security updates for {left} more days", lower=1, release=key, ends=end)
    else:
        yield passed(f"{name} gets security updates until {end}", release=key, ends=end)


@control("PAT-11")
def package_signatures_are_enforced(host: Host, _context: Context) -> Iterable[Verdict]:
    """Who can put a package on the host owns it."""
    sources = host.updates.weak_sources
    if isinstance(sources, Absent):
        yield not_applicable("no package source is configured")
        return
    weak = need(sources)
    if weak:
        yield from each(weak, _weak, subject=lambda one: f"{one.path}: {one.what}", none="")
    else:
        yield passed("every package source must prove who made its packages")


def _weak(one: WeakSource) -> Verdict:
    said, place = one.what.lower(), f"{one.path}, line {one.line}"
    if said.startswith(("check-valid-until", "check-date")):
        say = f"{place}: {one.what} lets old lists be played again, without the updates since"
        return failed(say, lower=1, file=one.path, line=one.line)
    if said.startswith(("verify-", "sslverify")):
        say = f"{place}: {one.what} lets anybody on the way see and hold back what is fetched"
        return failed(say, lower=1, file=one.path, line=one.line)
    return failed(f"{place}: {one.what} lets anybody's packages in", file=one.path, line=one.line)
