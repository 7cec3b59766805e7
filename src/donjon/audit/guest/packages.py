# SPDX-License-Identifier: Apache-2.0
"""The packages of a guest, from the files of its package manager; all in Python: these files are the guest's to forge.

Source: deb-control(5) and dpkg-query(1) of /var/lib/dpkg/status; rpm's lib/rpmtag.h and "RPM Package File Structure"
of headers.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from posixpath import dirname

from donjon.audit.fact import Absent, Fact, Known, Unknown, Unseen
from donjon.audit.facts.packages import Package, Packages
from donjon.audit.guest.sqlite_table import rows_of
from donjon.audit.guest.tree import GuestTree

DPKG = "/var/lib/dpkg/status"
RPM = ("/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite")
OTHER_RPM = ("/var/lib/rpm/Packages", "/var/lib/rpm/Packages.db", "/usr/lib/sysimage/rpm/Packages.db")
MOST = 24 << 20
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SOURCE = 1000, 1001, 1002, 1003, 1022, 1044
_INT32, _STRING, _I18N = 4, 6, 9
_MOST_TAGS = 10_000


def read_packages(tree: GuestTree) -> Packages:
    """Those of dpkg, or of rpm; unknown if the guest has neither, or a kind of database that is not read."""
    debian = tree.look(DPKG, lambda: parse_status(tree.read(DPKG, MOST).decode("utf-8", "replace")))
    if not isinstance(debian, Absent):
        return Packages(_kind(debian, "deb"), debian)
    for path in RPM:
        database = tree.look(path, lambda path=path: _rpm(tree, path))  # type: ignore[misc]
        if not isinstance(database, Absent):
            return Packages(_kind(database, "rpm"), database)
    other = [path for path in OTHER_RPM if not isinstance(tree.look(path, lambda path=path: tree.entry(path)), Absent)]  # type: ignore[misc]
    reason = f"{other[0]} is an rpm database of a kind that is not read" if other else "no package manager was found"
    return Packages(Unknown(reason), Unknown(reason))


def _kind(packages: Fact[dict[str, Package]], kind: str) -> Fact[str]:
    return Known(kind, packages.source) if isinstance(packages, Known) else packages


def parse_status(text: str) -> dict[str, Package]:
    """The installed packages in /var/lib/dpkg/status. Raises ValueError: it is no such file."""
    found: dict[str, Package] = {}
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
        if not paragraph.strip() or not fields.get("Status", "").endswith(" installed"):
            continue
        name, version = fields.get("Package", ""), fields.get("Version", "")
        if not name or not version:
            raise ValueError("a package without name or version")
        source, _, other = fields.get("Source", name).partition(" ")
        package = Package(name, version, fields.get("Architecture", ""), source, other.strip("()") or version)
        found[_key(package, found)] = package
    if not found:
        raise ValueError("it names no package")
    return found


def _rpm(tree: GuestTree, path: str) -> dict[str, Package]:
    log = f"{path}-wal"
    if log.rpartition("/")[2] in (beside := tree.listing(dirname(path))) and beside[log.rpartition("/")[2]].size:
        raise Unseen(f"{log} holds changes that are not in the database yet")
    return parse_rpm_database(tree.read(path, MOST))


def parse_rpm_database(content: bytes) -> dict[str, Package]:
    """The packages in rpm's SQLite database. Raises ValueError: it is none."""
    headers = (row[1] for row in rows_of(content, "Packages") if len(row) > 1)
    packages = [parse_header(header) for header in headers if isinstance(header, bytes)]
    if not packages:
        raise ValueError("it names no package")
    found: dict[str, Package] = {}
    for package in packages:
        if package.name != "gpg-pubkey":
            found[_key(package, found)] = package
    return found


def _key(package: Package, found: Mapping[str, Package]) -> str:
    """As in `donjon.audit.facts.packages`: kernels, and packages of several architectures, share a name."""
    return package.name if package.name not in found else f"{package.name} {package.version} {package.arch}"


def parse_header(blob: bytes) -> Package:
    """A package, from the header that rpm keeps of it. Raises ValueError."""
    try:
        tags = dict(_tags(blob))
    except struct.error as error:
        raise ValueError("a header that is cut short") from error
    name, version = tags.get(_NAME, ""), f"{tags.get(_VERSION, '')}-{tags.get(_RELEASE, '')}"
    if not name or version.startswith("-"):
        raise ValueError("a header without name or version")
    epoch = tags.get(_EPOCH, "")
    source = re.sub(r"-[^-]+-[^-]+\.(src|nosrc)\.rpm$", "", tags.get(_SOURCE, "")) or name
    full = f"{epoch}:{version}" if epoch and epoch != "0" else version
    return Package(name, full, tags.get(_ARCH, ""), source, full)


def _tags(blob: bytes) -> Iterator[tuple[int, str]]:
    """The tags we ask for as text: an index of (tag, type, offset, count), then the data."""
    count, length = struct.unpack_from(">II", blob)
    if count > _MOST_TAGS or 8 + 16 * count + length > len(blob):
        raise ValueError("a header that is cut short")
    start = 8 + 16 * count
    for number in range(count):
        tag, kind, offset, _ = struct.unpack_from(">IIII", blob, 8 + 16 * number)
        if offset > length or tag not in {_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SOURCE}:
            continue
        if kind == _INT32:
            yield tag, str(struct.unpack_from(">I", blob, start + offset)[0])
        elif kind in {_STRING, _I18N}:
            yield tag, blob[start + offset : blob.find(b"\0", start + offset)].decode("utf-8", "replace")
