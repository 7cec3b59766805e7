# SPDX-License-Identifier: Apache-2.0
"""Talks to QEMU's guest agent through libvirt, one command at a time.

All goes through virDomainQemuAgentCommand, whose time-out is that of the one command; the one of virDomainFSFreeze is
a setting of the domain that other programs share. libvirt has the agent answer a "guest-sync" before each command and
gives that 5 s at most. Source: libvirt's src/qemu/qemu_agent.c.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TypeVar

from donjon.hypervisors.agent import AgentError, AgentProblem, Executed, FreezeState
from donjon.hypervisors.agent_json import (
    Count,
    ExecStatus,
    Started,
    command,
    parse_output,
    parse_reply,
    run_program,
)
from donjon.hypervisors.document import parse_document
from donjon.hypervisors.libvirt.connection import Connection, Domain, LibvirtError
from donjon.model.vm import Power

Value = TypeVar("Value")

CHANNEL = "org.qemu.guest_agent.0"
_INSTALL = "install qemu-guest-agent in the guest, and give it the channel " + CHANNEL
_POLL_S = 0.1
_STATUS_TIMEOUT_S = 5.0
_KILLED_BY_SIGNAL = 128


class LibvirtAgents:
    """The agents of the guests of one libvirt connection."""

    _connection: Connection

    def ping(self, uuid: str, timeout_s: float) -> None:
        """Do nothing, if the agent answers."""
        _ask(self._connection.domain(uuid), command("guest-ping"), dict, timeout_s)

    def freeze(self, uuid: str, timeout_s: float) -> int:
        """Have it freeze all file systems, after its hooks; gives how many."""
        return _ask(self._connection.domain(uuid), command("guest-fsfreeze-freeze"), Count, timeout_s)

    def thaw(self, uuid: str, timeout_s: float) -> int:
        """Have it thaw all file systems; gives how many were frozen."""
        domain = self._running(uuid)
        return _ask(domain, command("guest-fsfreeze-thaw"), Count, timeout_s) if domain else 0

    def freeze_state(self, uuid: str, timeout_s: float) -> FreezeState:
        """What the agent says."""
        domain = self._running(uuid)
        if domain is None:
            return FreezeState.THAWED
        try:
            return _ask(domain, command("guest-fsfreeze-status"), FreezeState, timeout_s)
        except AgentError:
            return FreezeState.UNKNOWN

    def execute(self, uuid: str, argv: Sequence[str], *, timeout_s: float, input: bytes | None = None) -> Executed:
        """Run a program in the guest, to its end."""
        deadline = time.monotonic() + timeout_s
        domain = self._connection.domain(uuid)
        pid = _ask(domain, run_program(argv, input), Started, timeout_s).pid
        while True:
            status = _ask(domain, command("guest-exec-status", pid=pid), ExecStatus, _STATUS_TIMEOUT_S)
            if status.exited:
                return Executed(_exit_code(status), parse_output(status.out_data), parse_output(status.err_data))
            if time.monotonic() > deadline:
                raise AgentError(
                    f"cannot run {argv[0]} in {domain.name}: it did not end within {timeout_s:g} s",
                    kind=AgentProblem.TIMED_OUT,
                )
            time.sleep(_POLL_S)

    def _running(self, uuid: str) -> Domain | None:
        """None if the guest is off or gone."""
        try:
            domain = self._connection.domain(uuid)
            return domain if domain.is_active() else None
        except LibvirtError as error:
            if error.means_gone:
                return None
            raise


def _ask(domain: Domain, said: str, kind: type[Value], timeout_s: float) -> Value:
    try:
        reply = domain.agent_command(said, timeout_s)
    except LibvirtError as error:
        problem = _problem(domain, error)
        hint = _INSTALL if problem is AgentProblem.ABSENT else None
        raise AgentError(str(error), kind=problem, hint=hint) from error
    return parse_reply(reply, kind)


def _problem(domain: Domain, error: LibvirtError) -> AgentProblem:
    """Why the agent did not answer. Raises LibvirtError if it was not the agent, but libvirt that is out of reach."""
    if domain.power() is Power.RUNNING and not _is_connected(domain):
        return AgentProblem.ABSENT
    return AgentProblem.TIMED_OUT if error.means_no_answer else AgentProblem.REFUSED


def _is_connected(domain: Domain) -> bool:
    """Whether an agent in the guest has opened its end of the channel."""
    channels = parse_document(domain.definition(live=True)).iterfind("devices/channel/target")
    return any(channel.get("name") == CHANNEL and channel.get("state") == "connected" for channel in channels)


def _exit_code(status: ExecStatus) -> int:
    """As a shell has it."""
    if status.exitcode is not None:
        return status.exitcode
    return _KILLED_BY_SIGNAL + (status.signal or 0)
