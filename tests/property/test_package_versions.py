# SPDX-License-Identifier: Apache-2.0
"""Package versions are compared as dpkg and rpm compare them."""

from __future__ import annotations

import random
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.audit.package_versions import compare, compare_deb, compare_rpm

LETTERS = "0012349ab.+~-:Z"
RPM_LETTERS = "0012349ab.+~^-_Z"

# Cases of rpm's own test suite (rpmvercmp.at) and of releases in use.
RPM_ORDER = [
    ("1.0", "1.0", 0),
    ("1.0", "2.0", -1),
    ("2.0.1a", "2.0.1", 1),
    ("5.5p10", "5.5p1", 1),
    ("10xyz", "10.1xyz", -1),
    ("xyz10", "xyz10.1", -1),
    ("xyz.4", "8", -1),
    ("5.5p2", "5.6p1", -1),
    ("6.5p1", "5.6p1", 1),
    ("6.0.rc1", "6.0", 1),
    ("10b2", "10a1", 1),
    ("1.0a", "1.0aa", -1),
    ("10.0001", "10.1", 0),
    ("4.999.9", "5.0", -1),
    ("20101121", "20101122", -1),
    ("2_0", "2.0", 0),
    ("a+", "a_", 0),
    ("+_", "_+", 0),
    ("1.0~rc1", "1.0", -1),
    ("1.0~rc1~git123", "1.0~rc1", -1),
    ("1.0^", "1.0", 1),
    ("1.0^git1", "1.01", -1),
    ("1.0^20160101", "1.0.1", -1),
    ("1.0^20160101^git1", "1.0^20160102", -1),
    ("1.0~rc1^git1", "1.0~rc1", 1),
    ("1.0^git1~pre", "1.0^git1", -1),
    ("17:8.2.0-11.el9_4.4", "17:8.2.0-11.el9_4.9", -1),
    ("8.2.0-11.el9_4.9", "17:8.2.0-11.el9_4.4", -1),
    ("4.1.12-124.48.6.el6uek", "4.1.12-61.1.18.el6uek", 1),
    ("4.4.4-222", "4.4.4", 0),
]


@pytest.mark.parametrize(("one", "other", "expected"), RPM_ORDER)
def test_versions_are_ordered_as_by_rpm(one: str, other: str, expected: int) -> None:
    assert (compare_rpm(one, other), compare_rpm(other, one)) == (expected, -expected)


@pytest.mark.skipif(not shutil.which("dpkg"), reason="there is no dpkg here to compare with")
def test_versions_are_ordered_as_by_dpkg() -> None:
    chance = random.Random(5)
    words = ["".join(chance.choice(LETTERS) for _ in range(chance.randint(1, 6))) for _ in range(20)]
    real = [
        "1:7.2+dfsg-7+deb12u5",
        "1:7.2+dfsg-7+deb12u16",
        "6.1.119-1",
        "4.17.7+13-gab12-1",
        "2.6~rc1-1",
        "2.6-1~bpo12+1",
    ]
    versions = sorted({f"{chance.randint(0, 3)}{word.replace(':', '')}1" for word in words} | set(real))
    pairs = [(chance.choice(versions), chance.choice(versions)) for _ in range(150)]
    script = "".join(
        f"if dpkg --compare-versions {a!r} lt {b!r}; then echo -1; "
        f"elif dpkg --compare-versions {a!r} eq {b!r}; then echo 0; else echo 1; fi\n"
        for a, b in pairs
    )
    said = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=True).stdout.split()
    assert [(pair, compare_deb(*pair)) for pair in pairs] == list(zip(pairs, map(int, said), strict=True))


@given(st.sampled_from(["deb", "rpm"]), *[st.text(RPM_LETTERS, max_size=8)] * 3)
def test_versions_have_one_order(kind: str, one: str, two: str, three: str) -> None:
    assert compare(kind, one, two) == -compare(kind, two, one)
    assert compare(kind, one, one) == 0
    if kind == "deb" and compare(kind, one, two) <= 0 and compare(kind, two, three) <= 0:
        assert compare(kind, one, three) <= 0


@given(st.sampled_from(["deb", "rpm"]), st.text(max_size=12), st.text(max_size=12))
def test_no_text_is_too_odd_to_be_compared(kind: str, one: str, other: str) -> None:
    assert compare(kind, one, other) in {-1, 0, 1}
