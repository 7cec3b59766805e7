# SPDX-License-Identifier: Apache-2.0
"""Command lines of Linux and Xen, and the words on them that weaken a host (tokens.toml)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files

import msgspec
from msgspec import Struct

from donjon.audit.fact import Known, Unknown
from donjon.audit.facts.host import Host
from donjon.audit.verdict import Severity, Verdict, failed, passed, unknown

_BOOLEANS = {"no": "no off false disable 0", "yes": "yes on true enable 1"}
_XEN = {word: name for name, words in _BOOLEANS.items() for word in words.split()}
_XEN_LINE = re.compile(r"(?:multiboot2?|kernel)\s+(\S*/xen[^/\s]*)\s*(.*)")
_LINUX_LINE = re.compile(
    r"(?:linux(?:16|efi)?\s+\S+|(?:module2?|kernel)\s+\S*(?:linu|bzImage|kernel)\S*|options|kernelopts=)\s*(.*)"
)


class Token(Struct, frozen=True, forbid_unknown_fields=True):
    """A word that weakens a host; see tokens.toml."""

    control: str
    where: str
    option: str
    severity: Severity
    means: str
    value: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    until: str = ""


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    revision: date
    token: tuple[Token, ...]


class Word(Struct, frozen=True):
    """A word on a command line; `place` is "now", or "PATH:LINE" of a boot entry."""

    text: str
    place: str


@cache
def tokens() -> tuple[Token, ...]:
    """The table."""
    text = (files("donjon.audit.controls") / "tokens.toml").read_bytes()
    return msgspec.toml.decode(text, type=_Table).token


def is_xen(host: Host) -> bool:
    """Whether Xen runs here, as far as it could be seen."""
    return isinstance(host.platform.kinds, Known) and bool(set(host.platform.kinds.value) & set("XO"))


def weakened(control: str, host: Host, *, configured: Severity) -> Iterator[Verdict]:
    """What the table says of the command lines: a failure for each word of it that is there; else one verdict.

    Args:
        control: whose words.
        host: on which.
        configured: severity, at most, of a word that holds at the next start only.
    """
    found = list(weak_words(control, host, configured=configured))
    yield from found
    unseen = list(unseen_lines(host))
    yield from unseen
    if not found and not unseen:
        yield passed("no such word on a command line", known=len(tokens()))


def weak_words(control: str, host: Host, *, configured: Severity = Severity.CRITICAL) -> Iterator[Verdict]:
    """A failure for each word of the table that is on a command line that could be seen."""
    for where in ("xen", "linux") if is_xen(host) else ("linux",):
        for token, word in _hits(control, where, host):
            yield _verdict(token, word, configured)


def _verdict(token: Token, word: Word, configured: Severity) -> Verdict:
    now = word.place == "now"
    severity = token.severity if now or token.severity.rank > configured.rank else configured
    system = "Xen" if token.where == "xen" else "the kernel"
    runs = f"{system} runs with" if now else f"{system} will start with"
    return failed(
        f"{runs} {word.text}: {token.means}",
        f"{token.where} {word.text.partition('=')[0]}",
        severity=severity,
        token=word.text,
        place="running" if now else word.place,
    )


def unseen_lines(host: Host) -> Iterator[Verdict]:
    """Unknown, once, if a command line could not be seen."""
    lines = (*([host.xen.options] if is_xen(host) else []), host.platform.cmdline, host.boot.loader)
    reasons = [line.reason for line in lines if isinstance(line, Unknown)]
    if reasons:
        yield unknown(reasons[0], "command line")


def _hits(control: str, where: str, host: Host) -> Iterator[tuple[Token, Word]]:
    """The words that match, each option once: as it is now, else as it is configured."""
    seen: set[str] = set()
    for word in (*_running(where, host), *_configured(where, host)):
        for token in tokens():
            name = word.text.partition("=")[0]
            if (
                (token.control, token.where) == (control, where)
                and name not in seen
                and matches(token, word.text, host)
            ):
                seen.add(name)
                yield token, word


def _running(where: str, host: Host) -> Iterator[Word]:
    options = host.xen.options if where == "xen" else host.platform.cmdline
    if isinstance(options, Known):
        yield from (Word(text, "now") for text in options.value)


def _configured(where: str, host: Host) -> Iterator[Word]:
    if isinstance(host.boot.loader, Known):
        for line in host.boot.loader.value.entries:
            for text in entry_options(where, line.text):
                yield Word(text, line.place)


def entry_options(where: str, line: str) -> list[str]:
    """The options that a line of a boot loader gives to Xen or Linux; none if it starts something else."""
    xen = _XEN_LINE.fullmatch(line)
    if where == "xen":
        return xen[2].split() if xen else []
    linux = None if xen else _LINUX_LINE.fullmatch(line)
    return linux[1].split() if linux else []


def matches(token: Token, text: str, host: Host) -> bool:
    """Whether a word of a command line is one that the token means, on the Xen that runs here."""
    name, parts = _split(text, token.where)
    if not fnmatchcase(name, token.option.replace("-", "_")):
        return False
    if _any(parts, token.unless) or (token.value and not _any(parts, token.value)):
        return False
    branch = host.xen.branch
    return not (token.until and isinstance(branch, Known) and branch.value > _branch(token.until))


def _any(parts: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(part, pattern) for pattern in patterns for part in parts)


def _branch(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def _split(text: str, where: str) -> tuple[str, list[str]]:
    """Name and parts of the value, in the words of the table."""
    name, _, value = text.partition("=")
    if where == "xen" and name.startswith("no-"):
        name, value = name.removeprefix("no-"), "no"
    parts = re.split("[,;]", value.strip('"').lower())
    if where == "xen":
        parts = [_xen_part(part) for part in parts] if value else ["yes"]
    return name.replace("-", "_"), parts


def _xen_part(part: str) -> str:
    name, equals, value = part.partition("=")
    if equals:
        return f"{name}={_XEN.get(value, value)}"
    return f"{name.removeprefix('no-')}=no" if name.startswith("no-") else _XEN.get(name, name)
