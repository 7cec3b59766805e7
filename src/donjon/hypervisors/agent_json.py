# SPDX-License-Identifier: Apache-2.0
"""The language of QEMU's guest agent: what is said to it, and what its answers mean; they come from the guest.

Source: QEMU's qga/qapi-schema.json.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar

import msgspec

from donjon.hypervisors.agent import AgentError, AgentProblem

LONGEST_REPLY = 24 << 20
"""In characters: an agent gives at most 16 MiB of a program's output, in base64."""

Value = TypeVar("Value")
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
Pid = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Reply(msgspec.Struct, Generic[Value], frozen=True, rename={"value": "return"}):
    value: Value


class Started(msgspec.Struct, frozen=True):
    """Answer to guest-exec."""

    pid: Pid


class ExecStatus(msgspec.Struct, frozen=True, rename="kebab"):
    """Answer to guest-exec-status; output is in base64."""

    exited: bool
    exitcode: int | None = None
    signal: int | None = None
    out_data: str = ""
    err_data: str = ""


def command(name: str, **arguments: object) -> str:
    """What to send for one of the agent's commands."""
    said = {"execute": name, "arguments": arguments} if arguments else {"execute": name}
    return msgspec.json.encode(said).decode()


def run_program(argv: Sequence[str], input: bytes | None) -> str:
    """What to send to have a program run, whose output is kept."""
    arguments: dict[str, object] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
    if input is not None:
        arguments["input-data"] = base64.b64encode(input).decode()
    return command("guest-exec", **arguments)


def parse_reply(reply: str, kind: type[Value]) -> Value:
    """What the agent answered.

    Raises:
        AgentError: it makes no sense.
    """
    if len(reply) > LONGEST_REPLY:
        raise nonsense(f"it is {len(reply)} characters long")
    try:
        return msgspec.json.decode(reply, type=_Reply[kind]).value  # type: ignore[valid-type]
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise nonsense(str(error)) from error


def parse_output(data: str) -> bytes:
    """What a program has written.

    Raises:
        AgentError: it makes no sense.
    """
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise nonsense(str(error)) from error


def nonsense(problem: str) -> AgentError:
    """An answer that no agent gives."""
    return AgentError(f"cannot understand the guest agent: {problem}", kind=AgentProblem.REFUSED)
