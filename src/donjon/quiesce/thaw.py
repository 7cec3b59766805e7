# SPDX-License-Identifier: Apache-2.0
"""Thawing a guest for good: a freeze that was given up may still happen later."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from donjon.errors import HostError
from donjon.hypervisors.agent import AgentError, FreezeState, GuestAgent
from donjon.quiesce.bounded import bounded, until

Agent = TypeVar("Agent", bound=GuestAgent)

ANSWER_S = 5.0
"""How long an agent may take for what costs it nothing: to answer, to thaw."""
GRACE_S = 5.0
"""How much longer than its time-out a call may take until it counts as hanging."""
THAW_TIMEOUT_S = 30.0

_SAID_TWICE = 2
_POLL_S = 0.1


def thaw_for_good(agent: GuestAgent, uuid: str, timeout_s: float) -> None:
    """Keep thawing a guest until its agent says twice that it is thawed.

    An agent does one thing after the other, so what it says after a thaw holds for every freeze it was sent before;
    the second time is for a freeze that was still on its way.

    Raises:
        HostError: the agent did not say so in time, or the host is out of reach.
    """
    deadline = time.monotonic() + timeout_s
    said = 0
    while said < _SAID_TWICE:
        problem = _thaw(agent, uuid)
        state = agent.freeze_state(uuid, ANSWER_S)
        said = said + 1 if state is FreezeState.THAWED else 0
        if not said and time.monotonic() > deadline:
            raise HostError(
                f"cannot thaw the guest {uuid}: {problem or f'its agent says that it is {state.value}'}",
                hint="start qemu-guest-agent in the guest again, then run `donjon settle`; or reset the guest",
            )
        if said < _SAID_TWICE:
            time.sleep(_POLL_S)


def undo_freeze(
    connect: Callable[[str], AbstractContextManager[Agent]], uri: str, uuid: str, timeout_s: float = THAW_TIMEOUT_S
) -> None:
    """Thaw a guest for good on a connection of its own; a host that is out of reach is asked again.

    Raises:
        HostError: it could not be thawed in time, or the host hangs.
    """
    deadline = time.monotonic() + timeout_s

    def keep_trying(uuid: str) -> None:
        while True:
            try:
                with connect(uri) as host:
                    return thaw_for_good(host, uuid, until(deadline))
            except HostError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)

    bounded(keep_trying, uuid, timeout_s + GRACE_S)


def _thaw(agent: GuestAgent, uuid: str) -> HostError | None:
    try:
        agent.thaw(uuid, ANSWER_S)
    except AgentError as error:
        return error
    return None
