# SPDX-License-Identifier: Apache-2.0
"""What every guest agent does the same way: the fake one, and QEMU's as libvirt hands on what it says."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from donjon.hypervisors.agent import AgentError, AgentProblem, FreezeState, GuestAgent
from donjon.hypervisors.libvirt.agent import LibvirtAgents
from donjon.hypervisors.libvirt.connection import Connection, LibvirtError
from donjon.model.vm import Power
from donjon.testing.agent import FakeAgent, FakeAgents

WEB = "11111111-2222-4333-8444-555555555555"
GONE, REFUSED, PAUSED, SILENT, OUT_OF_REACH = 42, 1, 55, 86, 39
CHANNEL = "<domain><devices><channel><target name='org.qemu.guest_agent.0' state='{}'/></channel></devices></domain>"


class QemuDomain:
    """A domain of libvirt's whose agent speaks JSON, and refuses as QEMU's and libvirt do."""

    name = "web01"

    def __init__(self, guests: FakeAgents) -> None:
        self._guests = guests
        self._output: dict[int, Any] = {}

    def is_active(self) -> bool:
        return self.power() is not Power.OFF

    def power(self) -> Power:
        return self._guests.power(WEB)

    def definition(self, *, live: bool) -> str:
        assert live
        return CHANNEL.format("connected" if self._guests.agent(WEB).present else "disconnected")

    def agent_command(self, command: str, timeout_s: float) -> str:
        said = json.loads(command)
        try:
            return json.dumps({"return": self._do(said["execute"], said.get("arguments", {}), timeout_s)})
        except AgentError as error:
            code = PAUSED if self.power() is not Power.RUNNING else SILENT
            raise LibvirtError(str(error), code=REFUSED if "hook" in str(error) else code) from error

    def _do(self, name: str, arguments: dict[str, Any], timeout_s: float) -> object:
        if name == "guest-exec":
            data = base64.b64decode(arguments["input-data"]) if "input-data" in arguments else None
            done = self._guests.execute(WEB, [arguments["path"], *arguments["arg"]], timeout_s=timeout_s, input=data)
            texts = {"out-data": done.stdout, "err-data": done.stderr}
            coded = {key: base64.b64encode(text).decode() for key, text in texts.items() if text}
            self._output = {7: {"exited": True, "exitcode": done.exit_code, **coded}}
            return {"pid": 7}
        if name == "guest-exec-status":
            return self._output.pop(arguments["pid"])
        commands: dict[str, Callable[[str, float], object]] = {
            "guest-ping": lambda *_: self._guests.ping(WEB, timeout_s) or {},  # type: ignore[func-returns-value]
            "guest-fsfreeze-freeze": self._guests.freeze,
            "guest-fsfreeze-thaw": self._guests.thaw,
            "guest-fsfreeze-status": lambda *_: self._guests.freeze_state(WEB, timeout_s).value,
        }
        return commands[name](WEB, timeout_s)


class QemuConnection:
    """Knows one domain."""

    def __init__(self, guests: FakeAgents) -> None:
        self._domain = QemuDomain(guests)
        self.broken = False

    def domain(self, uuid: str) -> QemuDomain:
        if uuid != WEB or self.broken:
            raise LibvirtError(f"cannot find {uuid}: it says so", code=OUT_OF_REACH if self.broken else GONE)
        return self._domain


class QemuAgents(LibvirtAgents):
    """libvirt's side, with a domain that needs no libvirtd."""

    def __init__(self, guests: FakeAgents) -> None:
        self.connection = QemuConnection(guests)
        self._connection = cast(Connection, self.connection)


@pytest.fixture
def guests() -> FakeAgents:
    return FakeAgents()


@pytest.fixture
def web(guests: FakeAgents) -> FakeAgent:
    """The agent that is asked, with two file systems."""
    return guests.agent(WEB)


@pytest.fixture(params=["fake", "qemu"])
def agent(request: pytest.FixtureRequest, guests: FakeAgents) -> GuestAgent:
    if request.param == "fake":
        return guests
    pytest.importorskip("libvirt")
    return QemuAgents(guests)


def test_a_guest_is_frozen_and_thawed_and_says_so(agent: GuestAgent) -> None:
    agent.ping(WEB, 5)
    assert agent.freeze_state(WEB, 5) is FreezeState.THAWED
    assert agent.freeze(WEB, 5) == 2
    assert agent.freeze_state(WEB, 5) is FreezeState.FROZEN
    assert (agent.thaw(WEB, 5), agent.thaw(WEB, 5)) == (2, 0)
    assert agent.freeze_state(WEB, 5) is FreezeState.THAWED


def test_a_freeze_that_froze_nothing_gives_zero(agent: GuestAgent, web: FakeAgent) -> None:
    web.file_systems = 0
    assert agent.freeze(WEB, 5) == 0


def test_a_failed_hook_is_told_and_nothing_is_frozen(agent: GuestAgent, web: FakeAgent) -> None:
    web.hook_fails = True
    with pytest.raises(AgentError, match="hook has failed with status 3") as caught:
        agent.freeze(WEB, 5)
    assert caught.value.kind is AgentProblem.REFUSED
    assert not web.frozen


def test_a_freeze_that_is_late_times_out_and_then_happens(agent: GuestAgent, web: FakeAgent) -> None:
    web.late_by = 1
    with pytest.raises(AgentError) as caught:
        agent.freeze(WEB, 5)
    assert caught.value.kind is AgentProblem.TIMED_OUT
    assert agent.freeze_state(WEB, 5) is FreezeState.UNKNOWN
    assert agent.freeze_state(WEB, 5) is FreezeState.FROZEN


def test_an_absent_agent_is_told_from_one_that_does_not_answer(agent: GuestAgent, web: FakeAgent) -> None:
    web.present = False
    for ask in (agent.ping, agent.freeze, agent.thaw):
        with pytest.raises(AgentError) as caught:
            ask(WEB, 5)
        assert caught.value.kind is AgentProblem.ABSENT
    assert agent.freeze_state(WEB, 5) is FreezeState.UNKNOWN


def test_a_paused_guest_does_nothing(agent: GuestAgent, guests: FakeAgents) -> None:
    guests.powers[WEB] = Power.PAUSED
    for ask in (agent.ping, agent.freeze, agent.thaw):
        with pytest.raises(AgentError) as caught:
            ask(WEB, 5)
        assert caught.value.kind is AgentProblem.REFUSED
    assert agent.freeze_state(WEB, 5) is FreezeState.UNKNOWN


def test_a_guest_that_is_off_is_thawed(agent: GuestAgent, guests: FakeAgents) -> None:
    guests.powers[WEB] = Power.OFF
    assert (agent.thaw(WEB, 5), agent.freeze_state(WEB, 5)) == (0, FreezeState.THAWED)
    with pytest.raises(AgentError):
        agent.freeze(WEB, 5)


def test_a_program_gets_its_input_and_gives_its_output(agent: GuestAgent, web: FakeAgent) -> None:
    assert agent.execute(WEB, ["cat"], timeout_s=5, input=b"\x00\xff").stdout == b"\x00\xff"
    with pytest.raises(AgentError):
        agent.execute(WEB, ["/nowhere"], timeout_s=5)


def test_a_guest_that_is_gone_is_thawed_but_a_host_out_of_reach_is_an_error(guests: FakeAgents) -> None:
    pytest.importorskip("libvirt")
    agent = QemuAgents(guests)
    other = WEB.replace("1", "9")
    assert (agent.thaw(other, 5), agent.freeze_state(other, 5)) == (0, FreezeState.THAWED)
    agent.connection.broken = True
    for ask in (agent.thaw, agent.freeze_state):
        with pytest.raises(LibvirtError):
            ask(WEB, 5)
