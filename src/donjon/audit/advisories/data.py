# SPDX-License-Identifier: Apache-2.0
"""What distributions say of vulnerable packages, and which installed packages that concerns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import msgspec
from msgspec import Struct

from donjon.audit.facts.packages import Package
from donjon.audit.facts.platform import Release
from donjon.audit.package_versions import compare
from donjon.audit.verdict import Severity

ADVISORIES_SCHEMA = 1
_BUILDS = (".module", "ksplice", "_fips")
"""Marks of builds beside the usual one; a fix of one kind says nothing of a package of another."""
_SAME_AS = {"almalinux": "rhel", "rocky": "rhel", "centos": "rhel"}


class Fix(Struct, frozen=True, array_like=True):
    """A vulnerability of a package. `fixed` is the first version without it, "" while there is none.

    `severity` is that of donjon; of an advisory with several CVEs it is the worst.
    """

    package: str
    fixed: str
    advisory: str
    cves: tuple[str, ...]
    severity: str = "medium"


class Feed(Struct, frozen=True):
    """What one distribution says of one release: "debian-12", "ol-9", "rhel-9". `by_source`: of source packages."""

    release: str
    kind: str
    by_source: bool
    dated: date
    fixes: tuple[Fix, ...]


class Advisories(Struct, frozen=True):
    """All feeds; `exploited` are CVEs known to be used by attackers."""

    built: date
    feeds: dict[str, Feed]
    exploited: frozenset[str] = frozenset()
    schema: int = ADVISORIES_SCHEMA

    def of(self, release: Release) -> Feed | None:
        """The feed of a release of an operating system."""
        keys = (release_key(release.id, release.version), release_key(_SAME_AS.get(release.id, ""), release.version))
        return next((self.feeds[key] for key in keys if key in self.feeds), None)

    def age_days(self, today: date) -> int:
        """Of the oldest feed."""
        return (today - min((feed.dated for feed in self.feeds.values()), default=self.built)).days


class Vulnerable(Struct, frozen=True):
    """An installed package with a known vulnerability."""

    package: str
    source: str
    installed: str
    fixed: str
    advisory: str
    cves: tuple[str, ...]
    severity: Severity
    exploited: bool = False


def release_key(identity: str, version: str) -> str:
    """As feeds are named: "debian-12", of Red Hat and its relatives without the minor version; Ubuntu keeps it."""
    return f"{identity}-{version if identity == 'ubuntu' else version.partition('.')[0]}"


def vulnerable(packages: Mapping[str, Package], release: Release, advisories: Advisories) -> tuple[Vulnerable, ...]:
    """The installed packages that the advisories call vulnerable, worst first; known exploited ones are critical.

    Raises:
        LookupError: the advisories say nothing of this release.
    """
    feed = advisories.of(release)
    if feed is None:
        raise LookupError(f"the advisories say nothing of {release.pretty or release.id + ' ' + release.version}")
    installed = _by_feed_name(packages, feed)
    found = {
        (one.name, fix.advisory): _vulnerable(one, fix, advisories)
        for fix in feed.fixes
        for one in installed.get(fix.package, ())
        if _concerns(fix, _version(one, feed), feed.kind)
    }
    return tuple(sorted(found.values(), key=lambda one: (one.severity.rank, not one.fixed, one.package, one.advisory)))


def _by_feed_name(packages: Mapping[str, Package], feed: Feed) -> dict[str, list[Package]]:
    found: dict[str, list[Package]] = {}
    newest: dict[str, Package] = {}
    for one in packages.values():
        # Of several kernels the newest counts here; whether it runs is asked elsewhere.
        other = newest.get(one.name)
        if other is None or compare(feed.kind, one.version, other.version) > 0:
            newest[one.name] = one
    for one in newest.values():
        found.setdefault((one.source or one.name) if feed.by_source else one.name, []).append(one)
    return found


def _version(one: Package, feed: Feed) -> str:
    return (one.source_version or one.version) if feed.by_source else one.version


def _concerns(fix: Fix, version: str, kind: str) -> bool:
    if not fix.fixed:
        return True
    if any((mark in fix.fixed) != (mark in version) for mark in _BUILDS):
        return False
    return compare(kind, version, fix.fixed) < 0


def _vulnerable(one: Package, fix: Fix, advisories: Advisories) -> Vulnerable:
    exploited = not advisories.exploited.isdisjoint(fix.cves)
    severity = Severity.CRITICAL if exploited else Severity(fix.severity)
    return Vulnerable(
        one.name, one.source or one.name, one.version, fix.fixed, fix.advisory, fix.cves, severity, exploited
    )


def decode_advisories(text: bytes) -> Advisories:
    """Of JSON.

    Raises:
        ValueError: it is not what `Advisories` looks like.
    """
    found = msgspec.json.decode(text, type=Advisories)
    if found.schema != ADVISORIES_SCHEMA:
        raise ValueError(f"its schema is {found.schema}, not {ADVISORIES_SCHEMA}")
    return found
