# SPDX-License-Identifier: Apache-2.0
"""Where packages come from, and settings that make the package manager believe anybody.

Source: sources.list(5), apt.conf(5), apt-secure(8); yum.conf(5), dnf.conf(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown

_YES = r"(?:yes|true|1|on|enable|with)"
_NO = r"(?:no|false|0|off|disable|without)"
_APT_LINE = re.compile(
    rf"^\s*deb(?:-src)?\s+\[[^\]]*\b(?P<what>(?:trusted|allow-insecure|allow-weak)={_YES}|check-(?:valid-until|date)={_NO})\b",
    re.IGNORECASE,
)
_APT_FIELD = re.compile(
    rf"^(?P<what>(?:Trusted|Allow-Insecure|Allow-Weak):\s*{_YES}|Check-(?:Valid-Until|Date):\s*{_NO})\s*$",
    re.IGNORECASE,
)
_APT_SETTING = re.compile(
    r"(?P<what>(?:(?:AllowInsecureRepositories|AllowWeakRepositories|AllowDowngradeToInsecureRepositories"
    rf'|AllowUnauthenticated)\s+"?{_YES}\b|(?:Check-Valid-Until|Check-Date|Verify-Peer|Verify-Host)\s+"?{_NO}\b))',
    re.IGNORECASE,
)
_PAIR = re.compile(r"^(\w+)\s*=\s*(.*?)\s*$")
_YUM_MAIN = ("/etc/dnf/dnf.conf", "/etc/yum.conf")


class WeakSource(Struct, frozen=True):
    """A setting that turns off what proves where packages are from: file, line from 1, and what it says."""

    path: str
    line: int
    what: str


def read_sources(bundle: Bundle) -> Fact[tuple[WeakSource, ...]]:
    """From sources and settings of apt, or of yum and dnf; Absent if there is no source at all."""
    apt_texts = _texts(
        bundle, "/etc/apt/sources.list", "/etc/apt/sources.list.d/*", "/etc/apt/apt.conf", "/etc/apt/apt.conf.d/*"
    )
    yum_texts = _texts(bundle, *_YUM_MAIN, "/etc/yum.repos.d/*.repo")
    for texts in (apt_texts, yum_texts):
        if not isinstance(texts, Known):
            return Unknown(texts.reason) if isinstance(texts, Unknown) else texts
    assert isinstance(apt_texts, Known)
    assert isinstance(yum_texts, Known)
    if not apt_texts.value and not yum_texts.value:
        return Absent("/etc/apt, /etc/yum.repos.d")
    return Known((*_apt(apt_texts.value), *_yum(yum_texts.value)), "package sources")


def _texts(bundle: Bundle, *patterns: str) -> Fact[dict[str, str]]:
    found: dict[str, str] = {}
    for pattern in patterns:
        texts = bundle.texts(pattern)
        if not isinstance(texts, Known):
            return texts
        found |= texts.value
    return Known(found, patterns[0])


def _apt(texts: dict[str, str]) -> Iterator[WeakSource]:
    for path, text in sorted(texts.items()):
        if path.endswith((".save", ".disabled", ".bak", ".dpkg-old", ".dpkg-dist")):
            continue
        patterns = (_APT_SETTING,) if "/apt.conf" in path else (_APT_LINE, _APT_FIELD)
        for number, line in enumerate(text.splitlines(), 1):
            if line.lstrip().startswith(("#", "//")):
                continue
            matches = (pattern.search(line) for pattern in patterns)
            yield from (WeakSource(path, number, match["what"].replace('"', "").strip()) for match in matches if match)


def _yum(texts: dict[str, str]) -> Iterator[WeakSource]:
    """Settings of [main] hold for repositories that say nothing; by itself yum checks nothing."""
    checked = False
    for path in _YUM_MAIN:
        for section in _sections(texts.get(path, "")):
            checked = checked or section.says("gpgcheck", "1")
            yield from (WeakSource(path, section.lines[what], what) for what in section.weak())
    for path, text in sorted(texts.items()):
        if not path.endswith(".repo"):
            continue
        for section in _sections(text):
            if section.says("enabled", "0"):
                continue
            yield from (WeakSource(path, section.lines[what], f"[{section.name}] {what}") for what in section.weak())
            if not checked and "gpgcheck" not in section.values:
                yield WeakSource(path, section.start, f"[{section.name}] gpgcheck is not set")


class _Section(Struct):
    name: str
    start: int
    values: dict[str, str]
    lines: dict[str, int]

    def says(self, key: str, number: str) -> bool:
        words = {"1": {"1", "yes", "true", "on"}, "0": {"0", "no", "false", "off"}}
        return self.values.get(key, "").lower() in words[number]

    def weak(self) -> list[str]:
        return [f"{key}={self.values[key]}" for key in ("gpgcheck", "sslverify") if self.says(key, "0")]


def _sections(text: str) -> list[_Section]:
    found: list[_Section] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("["):
            found.append(_Section(line.strip().strip("[]"), number, {}, {}))
        elif found and (pair := _PAIR.match(line)):
            found[-1].values[pair[1]] = pair[2]
            found[-1].lines[f"{pair[1]}={pair[2]}"] = number
    return found
