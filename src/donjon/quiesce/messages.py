# SPDX-License-Identifier: Apache-2.0
"""What a backup and its watchdog say to each other: JSON, a line for each message."""

from __future__ import annotations

import msgspec

from donjon.state.process import Process


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The first: who speaks, and at which address the guests are."""

    worker: Process
    uri: str


class Arm(msgspec.Struct, frozen=True, tag=True):
    """Thaw these guests when the time is over."""

    number: int
    uuids: tuple[str, ...]
    deadline_s: float


class WatchSpace(msgspec.Struct, frozen=True, tag=True):
    """End the guest's backup job before the scratch folder is full; `least_free` in bytes."""

    number: int
    uuid: str
    scratch: str
    socket: str
    least_free: int


class Disarm(msgspec.Struct, frozen=True, tag=True):
    """Look out for that no longer."""

    number: int


class GoodBye(msgspec.Struct, frozen=True, tag=True):
    """The last: all is in order."""


Request = Hello | Arm | WatchSpace | Disarm | GoodBye


class Armed(msgspec.Struct, frozen=True, tag=True):
    """It is being looked out for."""

    number: int


class Fired(msgspec.Struct, frozen=True, tag=True):
    """It has happened; said before anything is done about it."""

    number: int


class Disarmed(msgspec.Struct, frozen=True, tag=True):
    """It is no longer looked out for, and what was done about it is done."""

    number: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The hypervisor cannot be reached."""

    reason: str


Answer = Armed | Fired | Disarmed | Failed

parse_request = msgspec.json.Decoder(Request).decode
parse_answer = msgspec.json.Decoder(Answer).decode


def encode(message: Request | Answer) -> bytes:
    """A message as it goes down the pipe."""
    return msgspec.json.encode(message) + b"\n"
