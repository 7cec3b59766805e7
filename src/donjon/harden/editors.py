# SPDX-License-Identifier: Apache-2.0
"""Settings put into the texts of configuration files; every other line stays as it is, and once is as good as twice.

Each gives a function text -> text, as `donjon.harden.change.Edit` wants it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Rewrite = Callable[[str], str]


def assignments(values: Mapping[str, str], separator: str = " = ") -> Rewrite:
    """Settings of the form `key = value`: libvirt's daemons, qemu.conf, sysctl, /etc/default, xl.conf, auditd.conf.

    The last line that sets the key gets the value, the ones before go; if there is none, it comes below the line that
    shows the default (`#key = ...`), or at the end. `separator` is what new lines have between key and value.
    """

    def rewrite(text: str) -> str:
        for key, value in values.items():
            text = _assigned(text, rf"{re.escape(key)}\s*=", f"{key}{separator}{value}")
        return text

    return rewrite


def directives(values: Mapping[str, str]) -> Rewrite:
    """Settings of the form `Key value`, any case, where the first one holds: sshd.

    Lines that set the key before the first `Match` go; the setting comes first of all. Source: sshd_config(5), "for
    each keyword, the first obtained value will be used".
    """

    def rewrite(text: str) -> str:
        for key, value in reversed(list(values.items())):
            text = _first(text, key, value)
        return text

    return rewrite


def in_section(section: str, values: Mapping[str, str]) -> Rewrite:
    """Settings `key=value` in a `[section]`: qemu-ga.conf, systemd, chrony's and NetworkManager's ini files."""

    def rewrite(text: str) -> str:
        head, body, rest = _section(text, section)
        for key, value in values.items():
            body = _assigned(body, rf"{re.escape(key)}\s*=", f"{key}={value}")
        return head + body + rest

    return rewrite


def expressions(values: Mapping[str, str]) -> Rewrite:
    """Settings of the form `(key value)`, one a line: xend-config.sxp."""

    def rewrite(text: str) -> str:
        for key, value in values.items():
            text = _assigned(text, rf"\(\s*{re.escape(key)}(?=[\s)])", f"({key} {value})")
        return text

    return rewrite


def lines(*wanted: str) -> Rewrite:
    """These lines are there, blanks at their ends apart; those that are not come at the end."""

    def rewrite(text: str) -> str:
        there = {line.strip() for line in text.split("\n")}
        return _ended(text) + "".join(f"{line}\n" for line in wanted if line.strip() not in there)

    return rewrite


def whole(text: str) -> Rewrite:
    """The file is this text and nothing else: for files that are donjon's own."""
    return lambda _: text


def _assigned(text: str, head: str, line: str) -> str:
    """`head` is the regular expression of what a line begins with that sets it."""
    old = _ended(text).split("\n")[:-1]
    setting = [number for number, one in enumerate(old) if re.match(rf"\s*{head}", one)]
    if setting:
        last = setting[-1]
        return "".join(
            f"{line if at == last else one}\n" for at, one in enumerate(old) if at == last or at not in setting
        )
    shown = [number for number, one in enumerate(old) if re.match(rf"\s*#\s*{head}", one)]
    place = shown[-1] + 1 if shown else len(old)
    return "".join(f"{one}\n" for one in [*old[:place], line, *old[place:]])


def _first(text: str, key: str, value: str) -> str:
    top, match, rest = _before_match(_ended(text))
    kept = [one for one in top if not re.match(rf"\s*{re.escape(key)}[\s=]", one, re.IGNORECASE)]
    comments = next((at for at, one in enumerate(kept) if not one.startswith("#")), len(kept))
    new = [*kept[:comments], f"{key} {value}", *kept[comments:]]
    return "".join(f"{one}\n" for one in new) + match + rest


def _before_match(text: str) -> tuple[list[str], str, str]:
    found = re.search(r"^\s*match\s.*$", text, re.IGNORECASE | re.MULTILINE)
    if not found:
        return text.split("\n")[:-1], "", ""
    return text[: found.start()].split("\n")[:-1], found[0], text[found.end() :]


def _section(text: str, name: str) -> tuple[str, str, str]:
    """What is before the first line of a section, its lines, and what comes after; made at the end if there is none."""
    text = _ended(text)
    found = re.search(rf"^\s*\[{re.escape(name)}\]\s*\n", text, re.MULTILINE)
    if not found:
        return f"{text}[{name}]\n", "", ""
    after = re.search(r"^\s*\[", text[found.end() :], re.MULTILINE)
    end = found.end() + after.start() if after else len(text)
    return text[: found.end()], text[found.end() : end], text[end:]


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
