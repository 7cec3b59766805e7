# SPDX-License-Identifier: Apache-2.0
"""Whatever an agent answers, it is understood or refused; nothing else happens to whoever asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.hypervisors.agent import AgentError, AgentProblem, FreezeState
from donjon.hypervisors.agent_json import (
    LONGEST_REPLY,
    Count,
    ExecStatus,
    Started,
    parse_output,
    parse_reply,
    run_program,
)

KINDS: list[Any] = [dict, Count, FreezeState, Started, ExecStatus]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
STATUS = st.fixed_dictionaries(
    {"exited": VALUES}, optional={"exitcode": VALUES, "signal": VALUES, "out-data": VALUES, "err-data": VALUES}
)


def understood(reply: str, kind: Any) -> object:
    """What it is understood as; None if it is refused."""
    try:
        return parse_reply(reply, kind)
    except AgentError as error:
        assert error.kind is AgentProblem.REFUSED
        return None


@given(st.text(st.characters(), max_size=60), st.sampled_from(KINDS))
@settings(max_examples=150, deadline=None)
def test_any_text_is_an_answer_or_nonsense(reply: str, kind: Any) -> None:
    understood(reply, kind)


@given(st.one_of(VALUES, STATUS), st.sampled_from(KINDS))
@settings(max_examples=200, deadline=None)
def test_any_json_is_an_answer_of_the_right_kind_or_nonsense(value: object, kind: Any) -> None:
    found = understood(json.dumps({"return": value}), kind)
    if kind is FreezeState:
        assert found is None or found.value == value  # type: ignore[attr-defined]
    if isinstance(found, ExecStatus):
        for data in (found.out_data, found.err_data):
            try:
                parse_output(data)
            except AgentError:
                continue


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("", Count),
        ("{}", Count),
        ('{"return": -1}', Count),
        ('{"return": 1e99}', Count),
        ('{"return": true}', Count),
        ('{"return": "frozen solid"}', FreezeState),
        ('{"return": {"pid": -4}}', Started),
        ('{"return": {"pid": 99999999999999999999}}', Started),
        ('{"return": {}}', ExecStatus),
        ('{"return": {"exited": 1}}', ExecStatus),
        ("\ud800", Count),
        ("[" * 100_000, Count),
        (" " * (LONGEST_REPLY + 1), Count),
    ],
)
def test_nonsense_is_refused(reply: str, kind: Any) -> None:
    with pytest.raises(AgentError, match="cannot understand the guest agent"):
        parse_reply(reply, kind)


def test_what_an_agent_says_is_understood() -> None:
    assert parse_reply('{"return": 3}', Count) == 3
    assert parse_reply('{"return": "frozen"}', FreezeState) is FreezeState.FROZEN
    assert parse_reply('{"return": {"pid": 147, "new": 1}}', Started) == Started(147)
    status = parse_reply('{"return": {"exited": true, "exitcode": 0, "out-data": "AP8="}}', ExecStatus)
    assert (status.exitcode, parse_output(status.out_data), parse_output(status.err_data)) == (0, b"\x00\xff", b"")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3), st.binary(max_size=9))
@settings(max_examples=50, deadline=None)
def test_words_and_input_of_a_program_reach_it_as_they_are(argv: list[str], data: bytes) -> None:
    said = json.loads(run_program(argv, data))["arguments"]
    assert [said["path"], *said["arg"]] == argv
    assert parse_output(said["input-data"]) == data
