# SPDX-License-Identifier: Apache-2.0
"""What sudo allows whom, from sudoers and the files it includes.

Source: sudoers(5): "Aliases", "User specification", "Including other files" (names with a dot or ending in ~ are not
read), and that the last tag of a command list holds for the rest of it.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Known, Unknown, derived

_ALIAS = re.compile(r"(User|Runas|Host|Cmnd|Cmd)_Alias\s+(.*)", re.DOTALL)
_TAG = re.compile(r"(?:(NO)?(PASSWD|EXEC|SETENV|LOG_INPUT|LOG_OUTPUT|MAIL|FOLLOW|INTERCEPT)):\s*")
_INCLUDE = re.compile(r"[#@]include(dir)?\s+(?:\"([^\"]+)\"|(\S+))")
_OPTION = re.compile(r"(?:ROLE|TYPE|PRIVS|LIMITPRIVS|CWD|CHROOT|TIMEOUT|NOTBEFORE|NOTAFTER|APPARMOR_PROFILE)=\S+\s*")


class SudoRule(Struct, frozen=True):
    """Who may run what: `users` and `commands` with aliases resolved, negations kept as "!x"."""

    users: tuple[str, ...]
    commands: tuple[str, ...]
    without_password: bool
    where: str


class _Aliases(Struct):
    users: dict[str, tuple[str, ...]]
    commands: dict[str, tuple[str, ...]]


def read_sudo_rules(bundle: Bundle) -> Fact[tuple[SudoRule, ...]]:
    """All rules of /etc/sudoers and what it includes; unknown if one line cannot be understood."""
    main = bundle.text("/etc/sudoers")
    drop_ins = bundle.texts("/etc/sudoers.d/*")
    if isinstance(main, Known) and "/etc/sudoers.d" in main.value:
        folder = bundle.paths.below("/etc/sudoers.d")
        unseen = [fact for fact in (drop_ins, folder) if isinstance(fact, Unknown)]
        if unseen:
            return unseen[0]
    files = drop_ins.value if isinstance(drop_ins, Known) else {}
    return derived(main, lambda text: parse_sudoers("/etc/sudoers", text, files))


def parse_sudoers(path: str, text: str, others: dict[str, str]) -> tuple[SudoRule, ...]:
    """The rules of a sudoers file; `others` are files that it may include.

    Raises:
        ValueError: a line is not understood, or a file that is included is not there.
    """
    lines = list(_lines(path, text, others, 0))
    aliases = _Aliases({}, {})
    for where, line in lines:
        if alias := _ALIAS.fullmatch(line):
            _define(aliases, where, alias[1], alias[2])
    return tuple(
        rule
        for where, line in lines
        if not _ALIAS.fullmatch(line) and not re.match(r"Defaults([\s@:!>]|$)", line)
        for rule in _rules(where, line, aliases)
    )


def _lines(path: str, text: str, others: dict[str, str], depth: int) -> list[tuple[str, str]]:
    if depth > 8:
        raise ValueError(f"{path}: files include each other")
    found: list[tuple[str, str]] = []
    joined = text.replace("\\\n", "\0")
    number = 1
    for line in joined.splitlines():
        where, number = f"{path}:{number}", number + 1 + line.count("\0")
        bare = line.replace("\0", " ").strip()
        include = _INCLUDE.match(bare)
        if include:
            for name in _included(path, include, others):
                found += _lines(name, others[name], others, depth + 1)
            continue
        bare = re.sub(r"(?<!\\)#(?!-?\d).*", "", bare).strip()
        if bare:
            found.append((where, bare))
    return found


def _included(path: str, include: re.Match[str], others: dict[str, str]) -> list[str]:
    target = include[2] or include[3]
    if not target.startswith("/"):
        target = f"{path.rpartition('/')[0]}/{target}"
    if not include[1]:
        if target not in others:
            raise ValueError(f"{target} is included, but was not seen")
        return [target]
    if target.rstrip("/") != "/etc/sudoers.d":
        raise ValueError(f"{target} is included, but was not seen")
    names = (name for name in sorted(others) if fnmatchcase(name, target.rstrip("/") + "/*"))
    return [name for name in names if "." not in name.rpartition("/")[2] and not name.endswith("~")]


def _define(aliases: _Aliases, where: str, kind: str, text: str) -> None:
    for part in re.split(r":(?=\s*[A-Z][A-Z0-9_]*\s*=)", text):
        name, equals, members = part.partition("=")
        if not equals:
            raise ValueError(f"{where}: an alias without =")
        into = {"User": aliases.users, "Cmnd": aliases.commands, "Cmd": aliases.commands}.get(kind)
        if into is not None:
            into[name.strip()] = tuple(_list(members))


def _rules(where: str, line: str, aliases: _Aliases) -> list[SudoRule]:
    match = re.match(r"((?:[^\s,=]|\\ )+(?:\s*,\s*(?:[^\s,=]|\\ )+)*)\s+(.*)", line, re.DOTALL)
    if match is None or "=" not in match[2]:
        raise ValueError(f"{where}: not a rule: {line[:40]}")
    users = _resolved(_list(match[1]), aliases.users)
    found = []
    for part in re.split(r"(?<!\\):(?=\s*[\w.,! -]+=\s*[(/A-Zs])", match[2]):
        _, _, commands = part.partition("=")
        found += _commands(where, users, commands, aliases)
    return found


def _commands(where: str, users: tuple[str, ...], text: str, aliases: _Aliases) -> list[SudoRule]:
    """A rule for those that ask for a password, and one for those that do not."""
    by_tag: dict[bool, list[str]] = {False: [], True: []}
    free = False
    for item in _list(re.sub(r"\([^)]*\)", "", text)):
        rest = _OPTION.sub("", item)
        while tag := _TAG.match(rest):
            if tag[2] == "PASSWD":
                free = tag[1] == "NO"
            rest = rest[tag.end() :]
        rest = rest.strip()
        if not re.match(r"!*\s*(/|ALL$|sudoedit\b|list$|sha\d+:|[A-Z][A-Z0-9_]*$|\^)", rest):
            raise ValueError(f"{where}: not a command: {rest[:40]}")
        by_tag[free] += _resolved([rest], aliases.commands)
    return [SudoRule(users, tuple(commands), tag, where) for tag, commands in by_tag.items() if commands]


def _list(text: str) -> list[str]:
    return [item.strip().strip('"') for item in re.split(r"(?<!\\),", text) if item.strip()]


def _resolved(
    items: list[str] | tuple[str, ...], aliases: dict[str, tuple[str, ...]], depth: int = 0
) -> tuple[str, ...]:
    found: list[str] = []
    for item in items:
        name = item.lstrip("! ")
        negated = item[: len(item) - len(name)].count("!") % 2
        if depth < 8 and name in aliases:
            inner = _resolved(aliases[name], aliases, depth + 1)
            found += [_negated(one) if negated else one for one in inner]
        else:
            found.append("!" + name if negated else name)
    return tuple(found)


def _negated(item: str) -> str:
    return item[1:] if item.startswith("!") else "!" + item
