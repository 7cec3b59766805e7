# SPDX-License-Identifier: Apache-2.0
"""What is different between two texts: found when planning, shown to people, and done on the host by sed and cat."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator
from itertools import groupby

from donjon.harden.plan import Hunk

_SECRET = re.compile(
    r"""(?ix) (?: passwd | password | passphrase | secret ) (?: \s*[=:]\s* | (?<=\(vncpasswd)\s+ ) (["']?)
    (?P<value> (?<=["']) [^"'\n]+ | (?<!["']) [^\s"',;)\]>]+ )"""
)
_MASKED = re.compile(r"\[secret (\d+) of line (\d+)\]")


def hunks_between(before: str, after: str) -> tuple[Hunk, ...]:
    """The lines in which two texts differ. Only these are in a plan; secrets in them stay on the host.

    Raises:
        ValueError: they cannot be told apart in a plan.
    """
    old, new = _lines(before), _lines(after)
    opcodes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return tuple(
        _hunk(start + 1, old[start:end], new[new_start:new_end])
        for kind, start, end, new_start, new_end in opcodes
        if kind != "equal"
    )


def _hunk(line: int, removed: list[str], added: list[str]) -> Hunk:
    if any(_MASKED.search(text) for text in (*removed, *added)):
        raise ValueError("its text looks as if donjon had left out a secret there")
    names = {
        found["value"]: f"[secret {number} of line {at}]"
        for at, text in enumerate(removed, start=line)
        for number, found in enumerate(_SECRET.finditer(text), start=1)
    }
    hunk = Hunk(line, tuple(_masked(text, names) for text in removed), tuple(_masked(text, names) for text in added))
    for text in hunk.added:
        if len({origin for _, origin in _MASKED.findall(text)}) > 1:
            raise ValueError("secrets of several lines would have to become one line")
    return hunk


def _masked(text: str, names: dict[str, str]) -> str:
    """The text with names for the secrets that there are already; one that a fix brings along is none."""

    def name(found: re.Match[str]) -> str:
        value = found["value"]
        return found[0][: -len(value)] + names.get(value, value)

    return _SECRET.sub(name, text)


def diff(hunks: tuple[Hunk, ...]) -> str:
    """The same for people, as a unified diff without context."""
    grown = 0
    text: list[str] = []
    for hunk in hunks:
        old, new = len(hunk.removed), len(hunk.added)
        # A side without lines is counted from the line before: POSIX, diff, "Diff -u Output Format".
        start, new_start = hunk.line - (not old), hunk.line + grown - (not new)
        text.append(f"@@ -{start},{old} +{new_start},{new} @@")
        text += ["-" + line.rstrip("\n") for line in hunk.removed]
        text += ["+" + line.rstrip("\n") for line in hunk.added]
        grown += new - old
    return "\n".join(text)


def shell(hunks: tuple[Hunk, ...]) -> str:
    """Sh that prints the new text, given the file with the old one as "$1"."""
    return "\n".join(_pieces(hunks)) or 'cat "$1"'


def _pieces(hunks: tuple[Hunk, ...]) -> Iterator[str]:
    line = 1
    for hunk in hunks:
        if hunk.line > line:
            yield f"sed -n '{line},{hunk.line - 1}p' \"$1\""
        for masked, texts in groupby(hunk.added, key=lambda text: bool(_MASKED.search(text))):
            if masked:
                yield from (_with_secrets(text, hunk) for text in texts)
            else:
                yield f"printf %s {shlex.quote(''.join(texts))}"
        line = hunk.line + len(hunk.removed)
    if hunks:
        yield f"sed -n '{line},$p' \"$1\""


def _with_secrets(text: str, hunk: Hunk) -> str:
    """Sh that prints a new line with the secrets that stand in one of the old ones."""
    origin = int(_MASKED.findall(text)[0][1])
    old = hunk.removed[origin - hunk.line].rstrip("\n")
    groups = {found[0]: f"\\{number}" for number, found in enumerate(_MASKED.finditer(old), start=1)}
    pattern = "".join(
        r"\(.*\)" if piece in groups else re.sub(r"[\\.\[*^$/]", r"\\\g<0>", piece) for piece in _split(old)
    )
    new = "".join(groups.get(piece) or re.sub(r"[\\&/]", r"\\\g<0>", piece) for piece in _split(text.rstrip("\n")))
    return f'sed -n {shlex.quote(f"{origin}s/^{pattern}$/{new}/p")} "$1"'


def _split(text: str) -> list[str]:
    return re.split(f"({_MASKED.pattern.replace('(', '(?:')})", text)


def _lines(text: str) -> list[str]:
    return [line for line in re.split(r"(?<=\n)", text) if line]
