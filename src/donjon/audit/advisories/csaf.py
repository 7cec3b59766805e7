# SPDX-License-Identifier: Apache-2.0
"""Reads CSAF 2.0 and VEX documents of vendors of RPM systems.

Source: OASIS CSAF 2.0, 3.2 (product_tree, vulnerabilities); package URL specification, type rpm.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from urllib.parse import parse_qs, unquote

import msgspec
from msgspec import Struct, field

from donjon.audit.advisories.data import Feed, Fix

_CPE = re.compile(r"cpe:/[oa]:(?:redhat:(?:enterprise_linux|rhel_\w+)|oracle:linux):(\d+)")
_RPM_VERSION = re.compile(r"pkg:rpm/[^/]+/(?P<name>[^@]+)@(?P<version>[^?]+)(?:\?(?P<more>.*))?")
_WORST = ("critical", "important", "moderate", "low")
SEVERITIES = {"critical": "critical", "important": "high", "moderate": "medium", "low": "low"}
MAX_DEPTH = 32


class _Helper(Struct):
    purl: str = ""
    cpe: str = ""


class _Product(Struct):
    product_id: str
    product_identification_helper: _Helper = field(default_factory=_Helper)


class _Branch(Struct):
    product: _Product | None = None
    branches: tuple[_Branch, ...] = ()


class _Relationship(Struct):
    full_product_name: _Product
    product_reference: str
    relates_to_product_reference: str


class _Tree(Struct):
    branches: tuple[_Branch, ...] = ()
    relationships: tuple[_Relationship, ...] = ()


class _Threat(Struct):
    category: str = ""
    details: str = ""


class _Products(Struct):
    fixed: tuple[str, ...] = ()


class _Vulnerability(Struct):
    cve: str = ""
    product_status: _Products = field(default_factory=_Products)
    threats: tuple[_Threat, ...] = ()


class _Tracking(Struct):
    id: str


class _Severity(Struct):
    text: str = ""


class _Document(Struct):
    tracking: _Tracking
    aggregate_severity: _Severity = field(default_factory=_Severity)


class _Csaf(Struct):
    document: _Document
    product_tree: _Tree = field(default_factory=_Tree)
    vulnerabilities: tuple[_Vulnerability, ...] = ()


def read_csaf(text: bytes, dated: date) -> tuple[Feed, ...]:
    """A feed for each release that the document tells fixed packages of.

    Raises:
        ValueError: it is not CSAF.
    """
    csaf = msgspec.json.decode(text, type=_Csaf)
    products = {one.product_id: one for one in _products(csaf.product_tree.branches, 0)}
    where = {one.full_product_name.product_id: one for one in csaf.product_tree.relationships}
    cves: dict[tuple[str, str, str], set[str]] = {}
    for one in csaf.vulnerabilities:
        for fixed in one.product_status.fixed:
            found = _fixed(where.get(fixed), products)
            if found:
                cves.setdefault(found, set()).add(one.cve)
    severity = _severity(csaf)
    number = csaf.document.tracking.id
    fixes: dict[str, list[Fix]] = {}
    for (release, name, evr), numbers in sorted(cves.items()):
        fixes.setdefault(release, []).append(Fix(name, evr, number, tuple(sorted(numbers - {""})), severity))
    return tuple(Feed(release, "rpm", False, dated, tuple(found)) for release, found in fixes.items())


def _products(branches: tuple[_Branch, ...], depth: int) -> Iterator[_Product]:
    if depth > MAX_DEPTH:
        raise ValueError("its branches are too deep")
    for branch in branches:
        if branch.product is not None:
            yield branch.product
        yield from _products(branch.branches, depth + 1)


def _fixed(where: _Relationship | None, products: dict[str, _Product]) -> tuple[str, str, str] | None:
    """Release, package and EVR of a product that is a package in a release; None for anything else."""
    if where is None:
        return None
    package, platform = products.get(where.product_reference), products.get(where.relates_to_product_reference)
    if package is None or platform is None:
        return None
    cpe = _CPE.match(platform.product_identification_helper.cpe)
    purl = _RPM_VERSION.match(package.product_identification_helper.purl)
    if cpe is None or purl is None:
        return None
    more = parse_qs(purl["more"] or "")
    if more.get("arch") == ["src"]:
        return None
    epoch = more.get("epoch", ["0"])[0]
    version = unquote(purl["version"])
    vendor = "ol" if ":oracle:" in platform.product_identification_helper.cpe else "rhel"
    return f"{vendor}-{cpe[1]}", unquote(purl["name"]), f"{epoch}:{version}" if epoch != "0" else version


def _severity(csaf: _Csaf) -> str:
    impacts = {
        threat.details.lower() for one in csaf.vulnerabilities for threat in one.threats if threat.category == "impact"
    }
    words = {csaf.document.aggregate_severity.text.lower()} | impacts
    return next((SEVERITIES[word] for word in _WORST if word in words), "medium")
