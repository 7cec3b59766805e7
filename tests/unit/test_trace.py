# SPDX-License-Identifier: Apache-2.0
"""Trace points are heard by those who listen, while they listen."""

from __future__ import annotations

import pytest

from donjon import trace


def test_nobody_needs_to_listen() -> None:
    trace.reached("test.point")


def test_every_listener_hears_each_point_in_order() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with trace.listening(outer.append):
        trace.reached("test.first")
        with trace.listening(inner.append):
            trace.reached("test.second")
        trace.reached("test.third")
    trace.reached("test.unheard")
    assert outer == ["test.first", "test.second", "test.third"]
    assert inner == ["test.second"]


def test_a_listener_can_stop_the_program_where_it_is() -> None:
    def stop(point: str) -> None:
        raise InterruptedError(point)

    with pytest.raises(InterruptedError, match=r"test\.point"), trace.listening(stop):
        trace.reached("test.point")
    trace.reached("test.point")
