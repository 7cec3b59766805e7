# SPDX-License-Identifier: Apache-2.0
"""What donjon asks of the agent inside a guest: freeze and thaw its file systems, run a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from donjon.errors import HostError


class FreezeState(Enum):
    """Whether a guest's file systems are frozen; UNKNOWN when its agent does not say."""

    THAWED = "thawed"
    FROZEN = "frozen"
    UNKNOWN = "unknown"


class AgentProblem(Enum):
    """Why an agent did not do as asked.

    ABSENT: there is none, or it does not run. TIMED_OUT: it did not answer in time; what it was asked for may still
    happen. REFUSED: it, or its host, said no, or answered nonsense.
    """

    ABSENT = "absent"
    TIMED_OUT = "timed out"
    REFUSED = "refused"


class AgentError(HostError):
    """The agent in a guest did not do as asked; `kind` says why."""

    def __init__(self, message: str, *, kind: AgentProblem, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Executed:
    """A program that ran inside a guest, to its end."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class GuestAgent(Protocol):
    """The agents of a host's guests, known by the guest's UUID.

    Every call ends within `timeout_s` and a few seconds. It raises AgentError if the agent does not do as asked, and
    another HostError if the host is out of reach.
    """

    def ping(self, uuid: str, timeout_s: float) -> None:
        """Do nothing, if the agent answers."""
        ...

    def freeze(self, uuid: str, timeout_s: float) -> int:
        """Have it freeze all file systems, after its hooks; gives how many it froze, which may be 0.

        After any error the guest may be frozen, now or later.
        """
        ...

    def thaw(self, uuid: str, timeout_s: float) -> int:
        """Have it thaw all file systems; gives how many were frozen: 0 also for a guest that is off or gone."""
        ...

    def freeze_state(self, uuid: str, timeout_s: float) -> FreezeState:
        """What the agent says; a guest that is off or gone is THAWED. Raises no AgentError."""
        ...

    def execute(self, uuid: str, argv: Sequence[str], *, timeout_s: float, input: bytes | None = None) -> Executed:
        """Run a program in the guest, to its end; it goes on when the time is over. `argv[0]` is looked up in PATH."""
        ...
