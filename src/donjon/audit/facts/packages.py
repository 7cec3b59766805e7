# SPDX-License-Identifier: Apache-2.0
"""Packages that are installed.

Source: dpkg-query(1); rpm(8), "query options".
"""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle, Paths
from donjon.audit.fact import Fact, derived

DPKG_INFO = "/var/lib/dpkg/info/"


class Package(Struct, frozen=True):
    """An installed package: version with epoch and release as the package manager writes it, `source` package.

    `installed`: when this version came, in seconds since 1970; 0 if it was not asked for.
    """

    name: str
    version: str
    arch: str = ""
    source: str = ""
    source_version: str = ""
    installed: int = 0


class Packages(Struct, frozen=True):
    """`kind` is "deb" or "rpm".

    `all` has packages by name; of several with one name (kernels, other architectures) the first, the others as
    "NAME VERSION ARCH".
    """

    kind: Fact[str]
    all: Fact[dict[str, Package]]


def read_packages(bundle: Bundle) -> Packages:
    r"""From the probe "packages": "deb" or "rpm", lines of dpkg-query or rpm -qa, and "end".

    With tabs between; deb: STATUS NAME VERSION ARCH SOURCE SOURCE-VERSION, rpm: NAME EVR ARCH SOURCE-RPM INSTALLED.
    """
    said = bundle.output("packages")
    return Packages(derived(said, _kind), derived(said, lambda text: _parse(text, bundle.paths)))


def _kind(text: str) -> str:
    kind = text.partition("\n")[0].strip()
    if kind not in {"deb", "rpm"}:
        raise ValueError(f"{kind[:20]!r} is no kind of package")
    return kind


def _parse(text: str, paths: Paths) -> dict[str, Package]:
    kind = _kind(text)
    lines = text.strip("\n").split("\n")[1:]
    if lines[-1:] != ["end"] or len(lines) < 2:
        raise ValueError("the list has no end, or nothing in it")
    rows = [line.split("\t") for line in lines[:-1] if line]
    if kind == "deb":
        return by_name([_of_dpkg(row[1:], paths) for row in rows if row[0][1:2] == "i"])
    return by_name([_of_rpm(row) for row in rows if row[0] != "gpg-pubkey"])


def by_name(packages: list[Package]) -> dict[str, Package]:
    """As `Packages.all` has them."""
    found: dict[str, Package] = {}
    for one in packages:
        key = one.name if one.name not in found else f"{one.name} {one.version} {one.arch}"
        found[key] = one
    return found


def _of_dpkg(row: list[str], paths: Paths) -> Package:
    name, version, arch, source, source_version = row
    listed = (paths.seen.get(f"{DPKG_INFO}{key}.list") for key in (name, f"{name}:{arch}"))
    installed = next((info.mtime for info in listed if info is not None), 0)
    return Package(name, version, arch, source, source_version, installed)


def _of_rpm(row: list[str]) -> Package:
    name, version, arch, source_rpm, installed = row
    source = source_rpm.removesuffix(".src.rpm").removesuffix(".nosrc.rpm").rsplit("-", 2)
    known = len(source) == 3
    return Package(
        name,
        version,
        arch,
        source[0] if known else "",
        "-".join(source[1:]) if known else "",
        int(installed) if installed.isdigit() else 0,
    )
