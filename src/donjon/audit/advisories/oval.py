# SPDX-License-Identifier: Apache-2.0
"""Reads OVAL definitions of Red Hat and Oracle, as a stream: they have hundreds of MiB.

Source: OVAL 5.11, "oval-definitions-schema" and "linux-definitions-schema" (rpminfo_test, rpminfo_state). A definition
is taken as its advisory's packages; of its criteria only the tests "earlier than" count, each by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date
from xml.parsers import expat

from msgspec import Struct, field

from donjon.audit.advisories.csaf import SEVERITIES
from donjon.audit.advisories.data import Feed, Fix

MAX_DEPTH = 64
MAX_TEXT = 64 * 1024
_CHUNK = 1 << 20
_PLATFORM = re.compile(r"(Red Hat Enterprise Linux|Oracle Linux) (\d+)")
_VENDORS = {"Red Hat Enterprise Linux": "rhel", "Oracle Linux": "ol"}


class _Definition(Struct):
    """A patch: what it is called, what it fixes, where, and the tests that ask for packages."""

    advisory: str = ""
    severity: str = ""
    cves: list[str] = field(default_factory=list)
    releases: set[str] = field(default_factory=set)
    tests: list[str] = field(default_factory=list)


class _Reader:
    """Remembers what the elements said; definitions come first, then tests, objects and states that they point to."""

    def __init__(self) -> None:
        self.definitions: list[_Definition] = []
        self.tests: dict[str, list[str]] = {}
        self.names: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._open: list[str] = []
        self._current: _Definition | None = None
        self._identity = ""
        self._operation = ""
        self._text = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = tag.rpartition(":")[2]
        self._open.append(tag)
        if len(self._open) > MAX_DEPTH:
            raise ValueError("its elements are too deep")
        self._text = ""
        if tag == "definition":
            self._current = _Definition() if attributes.get("class") == "patch" else None
        elif tag == "evr":
            self._operation = attributes.get("operation", "")
        elif tag.startswith("rpminfo_"):
            self._identity = attributes.get("id", "")
        elif tag in {"object", "state"} and self._identity:
            self.tests.setdefault(self._identity, []).append(attributes.get(f"{tag}_ref", ""))
        elif self._current is not None:
            self._inside(self._current, tag, attributes)

    def _inside(self, current: _Definition, tag: str, attributes: dict[str, str]) -> None:
        if tag == "reference" and attributes.get("source", "").upper() in {"RHSA", "ELSA", "RHBA", "RHEA"}:
            current.advisory = attributes.get("ref_id", "")
        elif tag == "reference" and attributes.get("source", "").upper() == "CVE":
            current.cves.append(attributes.get("ref_id", ""))
        elif tag == "criterion" and "earlier than" in attributes.get("comment", ""):
            current.tests.append(attributes.get("test_ref", ""))

    def text(self, more: str) -> None:
        if len(self._text) < MAX_TEXT:
            self._text += more

    def end(self, _tag: str) -> None:
        tag = self._open.pop()
        said = self._text.strip()
        if tag == "definition" and self._current is not None:
            self.definitions.append(self._current)
            self._current = None
        elif tag.startswith("rpminfo_"):
            self._identity = ""
        elif tag == "name" and self._identity:
            self.names[self._identity] = said
        elif tag == "evr" and self._operation == "less than":
            self.versions[self._identity] = said
        elif self._current is not None and tag == "severity":
            self._current.severity = said.lower()
        elif self._current is not None and tag == "platform" and (found := _PLATFORM.match(said)):
            self._current.releases.add(f"{_VENDORS[found[1]]}-{found[2]}")

    def fixes(self) -> Iterator[tuple[str, Fix]]:
        """Release and fix, for each package of each definition."""
        for one in self.definitions:
            severity = SEVERITIES.get(one.severity, "medium")
            for test in one.tests:
                thing, state = (*self.tests.get(test, ()), "", "")[:2]
                name, version = self.names.get(thing, ""), self.versions.get(state, "")
                if name and version:
                    fix = Fix(name, version.removeprefix("0:"), one.advisory, tuple(dict.fromkeys(one.cves)), severity)
                    yield from ((release, fix) for release in sorted(one.releases))


def read_oval(read: Callable[[int], bytes], dated: date) -> tuple[Feed, ...]:
    """A feed for each release that its patches are for; `read` is that of a file.

    Raises:
        ValueError: it is not OVAL, has a DOCTYPE (and with it entities of its own), or is too deep.
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        while chunk := read(_CHUNK):
            parser.Parse(chunk, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise ValueError(f"it is not XML: {error}") from error
    found: dict[str, set[Fix]] = {}
    for release, fix in reader.fixes():
        found.setdefault(release, set()).add(fix)
    if not found:
        raise ValueError("no fixed package of Red Hat or Oracle is in it")
    return tuple(
        Feed(release, "rpm", False, dated, tuple(sorted(fixes, key=lambda fix: (fix.package, fix.advisory, fix.fixed))))
        for release, fixes in found.items()
    )


def _refuse_doctype(*_: object) -> None:
    raise ValueError("it has a DOCTYPE")
