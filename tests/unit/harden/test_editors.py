# SPDX-License-Identifier: Apache-2.0
"""Settings are put where programs find them; other lines stay as they are."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.harden.editors import Rewrite, assignments, directives, expressions, in_section, lines
from donjon.harden.hunks import diff, hunks_between, shell

TEXTS = st.text(st.sampled_from("ab =#[]()m\n'\"\\$\r\t\0é"), max_size=60)


@pytest.mark.parametrize(
    ("rewrite", "before", "after"),
    [
        (assignments({"k": "1"}), "", "k = 1\n"),
        (assignments({"k": "1"}), "a = 0", "a = 0\nk = 1\n"),
        (assignments({"k": "1"}), "k=0\nkk = 0\n k = 2\n", "kk = 0\nk = 1\n"),
        (assignments({"k": "1"}), "# k is good\n#k = 0\n\nz = 1\n", "# k is good\n#k = 0\nk = 1\n\nz = 1\n"),
        (assignments({"A": "1"}, "="), "A=0\n", "A=1\n"),
        (directives({"X": "no", "Y": "no"}), "", "X no\nY no\n"),
        (directives({"X": "no"}), "# t\nInclude d\nx y\nMatch all\n X y\n", "# t\nX no\nInclude d\nMatch all\n X y\n"),
        (in_section("b", {"k": "1"}), "[a]\nk=0\n[b]\nk=0\nz=1\n[c]\nk=0\n", "[a]\nk=0\n[b]\nk=1\nz=1\n[c]\nk=0\n"),
        (in_section("b", {"k": "1"}), "[a]\n", "[a]\n[b]\nk=1\n"),
        (expressions({"srv": "no"}), "#(srv yes)\n(srv-port 1)\n", "#(srv yes)\n(srv no)\n(srv-port 1)\n"),
        (expressions({"srv": "no"}), "(srv yes)\n(other '')\n", "(srv no)\n(other '')\n"),
        (lines("b", "c"), "a\n b \n", "a\n b \nc\n"),
    ],
)  # fmt: skip
def test_a_setting_comes_to_its_place(rewrite: Rewrite, before: str, after: str) -> None:
    assert rewrite(before) == after
    assert rewrite(after) == after


@given(TEXTS)
def test_twice_is_as_good_as_once(text: str) -> None:
    for rewrite in (
        assignments({"a": "b"}),
        directives({"a": "b"}),
        in_section("a", {"b": "a"}),
        expressions({"a": "b"}),
        lines("a"),
    ):
        once = rewrite(text)
        assert rewrite(once) == once


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_the_host_makes_of_the_old_text_just_the_new_one(pairs: list[tuple[str, str]]) -> None:
    for before, after in pairs:
        if "\0" not in after:
            script = f"content() {{\n{shell(hunks_between(before, after))}\n}}\ncontent /dev/stdin"
            done = subprocess.run(["sh", "-c", script], input=before.encode(), capture_output=True, check=True)
            assert done.stdout == after.encode()


def test_the_difference_is_shown_as_diff_does_without_context() -> None:
    shown = diff(hunks_between("a\nb\nc\n", "x\na\nc\nd\n"))
    assert shown.splitlines() == ["@@ -0,0 +1,1 @@", "+x", "@@ -2,1 +2,0 @@", "-b", "@@ -3,0 +4,1 @@", "+d"]
