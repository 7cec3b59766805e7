# SPDX-License-Identifier: Apache-2.0
"""Settings are put where programs find them; other lines stay as they are."""

from __future__ import annotations

import subprocess
from tempfile import TemporaryFile

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.harden.editors import Rewrite, assignments, directives, expressions, in_section, lines
from donjon.harden.hunks import diff, hunks_between, shell
from donjon.harden.plan import Hunk

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


def changed(before: str, hunks: tuple[Hunk, ...]) -> str:
    """What a host makes of a text."""
    with TemporaryFile() as file:
        file.write(before.encode())
        file.flush()
        script = f"content() {{\n{shell(hunks)}\n}}\ncontent /proc/self/fd/0"
        done = subprocess.run(["sh", "-c", script], stdin=file, capture_output=True, check=True)
    return done.stdout.decode()


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_the_host_makes_of_the_old_text_just_the_new_one(pairs: list[tuple[str, str]]) -> None:
    for before, after in pairs:
        if "\0" not in after:
            assert changed(before, hunks_between(before, after)) == after


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (
            "<graphics listen='0.0.0.0' passwd='hunter2&amp;/\\' keymap='de'>",
            "<graphics listen='::1' passwd='hunter2&amp;/\\' keymap='de'>",
            (
                "-<graphics listen='0.0.0.0' passwd='[secret 1 of line 2]' keymap='de'>\n"
                "+<graphics listen='::1' passwd='[secret 1 of line 2]' keymap='de'>"
            ),
        ),
        (
            "vfb = [ 'vncpasswd=hunter2,type=vnc', 'spicepasswd=hunter22' ]",
            "vfb = [ 'spicepasswd=hunter22' ]",
            (
                "-vfb = [ 'vncpasswd=[secret 1 of line 2],type=vnc', 'spicepasswd=[secret 2 of line 2]' ]\n"
                "+vfb = [ 'spicepasswd=[secret 2 of line 2]' ]"
            ),
        ),
        ('vnc_password = "hunter2"', "# none", '-vnc_password = "[secret 1 of line 2]"\n+# none'),
        ("(vncpasswd 'hunter2')", "(vncpasswd '')", "-(vncpasswd '[secret 1 of line 2]')\n+(vncpasswd '')"),
        ("PermitEmptyPasswords yes", "PermitEmptyPasswords no", "-PermitEmptyPasswords yes\n+PermitEmptyPasswords no"),
    ],
)
def test_a_secret_in_a_line_that_changes_stays_on_the_host(before: str, after: str, shown: str) -> None:
    hunks = hunks_between(f"a\n{before}\nb\n", f"a\n{after}\nb\n")
    assert diff(hunks).partition("\n")[2] == shown
    assert b"hunter2" not in msgspec.json.encode(hunks)
    assert changed(f"a\n{before}\nb\n", hunks) == f"a\n{after}\nb\n"


def test_the_difference_is_shown_as_diff_does_without_context() -> None:
    shown = diff(hunks_between("a\nb\nc\n", "x\na\nc\nd\n"))
    assert shown.splitlines() == ["@@ -0,0 +1,1 @@", "+x", "@@ -2,1 +2,0 @@", "-b", "@@ -3,0 +4,1 @@", "+d"]
