# SPDX-License-Identifier: Apache-2.0
"""Which of two package versions is newer, as dpkg and rpm decide it.

Source: deb-version(7), "Sorting algorithm"; rpm-version(7) and the manual of rpm, "Dependencies".
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import zip_longest

_PIECES = re.compile(r"(\D*)(\d*)", re.ASCII)
_SEGMENTS = re.compile(r"\d+|[A-Za-z]+|~|\^", re.ASCII)


_Number = tuple[int, str]


def _number(digits: str) -> _Number:
    """A key to compare numbers of any length by: "010" -> (2, "10")."""
    digits = digits.lstrip("0")
    return len(digits), digits


@lru_cache(maxsize=1 << 16)
def compare(kind: str, one: str, other: str) -> int:
    """-1 if `one` is older, 0 if both are the same, 1 if it is newer; `kind` is "deb" or "rpm"."""
    return compare_deb(one, other) if kind == "deb" else compare_rpm(one, other)


def compare_deb(one: str, other: str) -> int:
    """As dpkg compares [EPOCH:]UPSTREAM[-REVISION]."""
    for mine, its in zip(_parts(one), _parts(other), strict=True):
        order = _compare_deb_part(mine, its)
        if order:
            return order
    return 0


def _parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.strip().partition(":")
    if not colon:
        epoch, rest = "0", epoch
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "")


def _compare_deb_part(one: str, other: str) -> int:
    """Alternately pieces without digits, by `_rank`, and numbers."""
    for (word, number), (its_word, its_number) in zip_longest(
        _PIECES.findall(one), _PIECES.findall(other), fillvalue=("", "")
    ):
        # Both lists end with an empty piece, which is less than every letter and more than "~".
        ranks, its_ranks = [*map(_rank, word), 0], [*map(_rank, its_word), 0]
        mine, its = (ranks, _number(number)), (its_ranks, _number(its_number))
        if mine != its:
            return 1 if mine > its else -1
    return 0


def _rank(letter: str) -> int:
    """A tilde is before the end of a piece, letters are after it, everything else after letters."""
    if letter == "~":
        return -1
    return ord(letter) if letter.isalpha() else ord(letter) + 0x110000


def compare_rpm(one: str, other: str) -> int:
    """As rpm compares [EPOCH:]VERSION[-RELEASE]; a release that one of them does not tell is not compared."""
    epoch, version, release = _evr(one)
    its_epoch, its_version, its_release = _evr(other)
    if epoch != its_epoch:
        return 1 if epoch > its_epoch else -1
    order = _compare_rpm_part(version, its_version)
    if order or not release or not its_release:
        return order
    return _compare_rpm_part(release, its_release)


def _evr(text: str) -> tuple[_Number, str, str]:
    epoch, colon, rest = text.strip().partition(":")
    if not colon:
        epoch, rest = "0", epoch
    version, _, release = rest.partition("-")
    return _number(epoch if epoch.isdecimal() else ""), version, release


def _compare_rpm_part(one: str, other: str) -> int:
    """Segment by segment; "~" is older than the end, "^" newer than the end and older than anything else."""
    if one == other:
        return 0
    for mine, its in zip_longest(_SEGMENTS.findall(one), _SEGMENTS.findall(other), fillvalue=""):
        if mine != its:
            order = _compare_segment(mine, its)
            if order:
                return order
    return 0


def _compare_segment(mine: str, its: str) -> int:
    for mark, order in (("~", -1), ("^", 1)):
        if mark in {mine, its}:
            # "^" against a segment that goes on: the one with "^" is older.
            against = its if mine == mark else mine
            sign = -1 if mark == "^" and against else order
            return sign if mine == mark else -sign
    if not mine or not its:
        return 1 if mine else -1
    if mine.isdecimal() != its.isdecimal():
        return 1 if mine.isdecimal() else -1
    left, right = (_number(mine), _number(its)) if mine.isdecimal() else ((0, mine), (0, its))
    return (left > right) - (left < right)
