# SPDX-License-Identifier: Apache-2.0
"""What is different between two texts: found when planning, shown to people, and done on the host by sed and cat."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator

from donjon.harden.plan import Hunk


def hunks_between(before: str, after: str) -> tuple[Hunk, ...]:
    """The lines in which two texts differ. Only these are in a plan: other lines may hold secrets."""
    old, new = _lines(before), _lines(after)
    opcodes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return tuple(
        Hunk(start + 1, tuple(old[start:end]), tuple(new[new_start:new_end]))
        for kind, start, end, new_start, new_end in opcodes
        if kind != "equal"
    )


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
        if hunk.added:
            yield f"printf %s {shlex.quote(''.join(hunk.added))}"
        line = hunk.line + len(hunk.removed)
    if hunks:
        yield f"sed -n '{line},$p' \"$1\""


def _lines(text: str) -> list[str]:
    return [line for line in re.split(r"(?<=\n)", text) if line]
