# SPDX-License-Identifier: Apache-2.0
"""Packages that are installed, and what the package manager says of updates."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Unknown


class Package(Struct, frozen=True):
    """An installed package: version with epoch and release as the package manager writes it, `source` package."""

    name: str
    version: str
    arch: str = ""
    source: str = ""
    source_version: str = ""


class Packages(Struct, frozen=True):
    """`kind` is "deb" or "rpm"."""

    kind: Fact[str]
    all: Fact[dict[str, Package]]


def read_packages(bundle: Bundle) -> Packages:
    """From dpkg-query or rpm -qa."""
    return Packages(Unknown("not read yet"), Unknown("not read yet"))
