# SPDX-License-Identifier: Apache-2.0
"""How donjon is set up on a host, and what was left behind, as the probes tell it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.audit.bundle import Bundle, Manifest, Output
from donjon.audit.fact import Known, Unknown, need
from donjon.audit.facts.recovery import Endpoint, Leftover, Recovery, read_recovery

PROBES = ("donjon-setup", "vm-leftovers", "plain-definitions")


def recovery(**outputs: str) -> Recovery:
    commands = {name.replace("_", "-"): Output(0, text) for name, text in outputs.items()}
    return read_recovery(Bundle(Manifest(), commands))


@pytest.mark.parametrize(
    ("location", "scheme"),
    [
        ("/backup", ""),
        ("local:/backup", ""),
        ("./a:b", ""),
        ("rest:http://h/x", "rest:http"),
        ("s3:https://h/x", "s3:https"),
        ("sftp:h:/x", "sftp"),
        ("nbd://h", "nbd"),
    ],
)
def test_the_scheme_of_a_repository(location: str, scheme: str) -> None:
    assert Endpoint(location).scheme == scheme


def test_names_of_snapshots_may_have_blanks_and_times_have_zones() -> None:
    row = " before the  update   2026-11-20 02:00:00 +0200   running"
    text = f"@snapshots u1\n Name   Creation Time   State\n---\n{row}\n@end\n"
    assert need(recovery(vm_leftovers=text).leftovers) == (
        Leftover("snapshot", "u1", "before the  update", datetime(2026, 11, 20, 0, 0, tzinfo=UTC)),
    )


def test_a_line_that_is_not_understood_hides_nothing() -> None:
    assert isinstance(recovery(vm_leftovers="@snapshots u1\nerror: no\n@end\n").leftovers, Unknown)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="\t\n @-:+0123456789abendkeyfilrpostu", max_size=120))
def test_whatever_a_probe_prints_is_a_fact_or_unknown(text: str) -> None:
    for whole in (text, f"{text}\nend\n", f"{text}\n@end\n"):
        found = recovery(donjon_setup=whole, vm_leftovers=whole, plain_definitions=whole)
        for fact in (found.setup, found.leftovers, found.exports):
            assert isinstance(fact, Known | Unknown)
