# SPDX-License-Identifier: Apache-2.0
"""Each check of a drill passes where all is well, fails where it is not, and says what it saw."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from donjon.errors import ConfigError
from donjon.hypervisors.agent import Executed
from donjon.model.vm import Power, Vm
from donjon.restore.drill_checks import (
    AgentAnswers,
    Check,
    ConsoleShows,
    Drilled,
    FileUnchanged,
    ScriptSucceeds,
    ServiceActive,
    Wanted,
    choose_checks,
    run_checks,
)
from donjon.restore.drill_definition import Traits
from donjon.state.drills import CheckResult
from donjon.testing.hypervisor import FakeHypervisor

UUID = "1111"
HASH, OTHER = "a" * 64, "b" * 64
ALL = Traits(agent=True, console=True, screen=True, interfaces=True)
NO_AGENT = ALL._replace(agent=False)
NOTHING = NO_AGENT._replace(console=False)


@pytest.fixture
def host() -> FakeHypervisor:
    return FakeHypervisor([Vm(UUID, "web01-drill", "fakehost", Power.RUNNING, ())])


@pytest.fixture
def guest(host: FakeHypervisor, tmp_path: Path) -> Drilled:
    return Drilled(host, UUID, tmp_path / "console", time.monotonic() + 0.05, 0.01)


def result(check: Check, guest: Drilled) -> CheckResult:
    (found,) = run_checks([check], guest)
    return found


def runs(host: FakeHypervisor, *argv: str, code: int = 0, out: bytes = b"", err: bytes = b"") -> None:
    host.agent(UUID).programs[argv] = Executed(code, out, err)


def test_an_agent_answers_or_does_not(host: FakeHypervisor, guest: Drilled) -> None:
    assert result(AgentAnswers(), guest).passed
    host.agent(UUID).present = False
    found = result(AgentAnswers(), guest)
    assert not found.passed
    assert "not connected" in found.evidence


def test_a_guest_that_is_off_is_not_waited_for(host: FakeHypervisor, guest: Drilled) -> None:
    patient = Drilled(host, UUID, guest.console, time.monotonic() + 3600, 0.01)
    host.shut_down(UUID, 1)
    assert result(AgentAnswers(), patient).evidence == "the guest is off"
    assert "the guest is off" in result(ConsoleShows("login:"), patient).evidence


def test_a_console_shows_a_text_or_what_it_said_last(guest: Drilled) -> None:
    guest.console.write_bytes(b"booting\n\xffpanic: no root\n")
    found = result(ConsoleShows("login:"), guest)
    assert not found.passed
    assert "panic: no root" in found.evidence
    guest.console.write_bytes(b"booting\r\nweb01 login: ")
    assert result(ConsoleShows("login:"), guest) == CheckResult("console shows 'login:'", True, "web01 login:")


def test_a_console_that_said_nothing_fails(guest: Drilled) -> None:
    assert not result(ConsoleShows("login:"), guest).passed


@pytest.mark.parametrize(
    ("code", "out", "passed", "told"),
    [
        (0, f"{HASH}  /etc/hosts\n", True, HASH),
        (0, f"\\{HASH}  /etc/a\\\\b\n", True, HASH),
        (0, f"{OTHER}  /etc/hosts\n", False, OTHER),
        (0, "", False, HASH),
        (1, "sha256sum: /etc/hosts: No such file\n", False, "No such file"),
    ],
)
def test_a_file_is_what_it_was(
    host: FakeHypervisor, guest: Drilled, code: int, out: str, passed: bool, told: str
) -> None:
    runs(host, "sha256sum", "--", "/etc/hosts", code=code, out=out.encode())
    found = result(FileUnchanged("/etc/hosts", HASH), guest)
    assert found.passed is passed
    assert told in found.evidence


def test_a_service_is_active_or_not(host: FakeHypervisor, guest: Drilled) -> None:
    runs(host, "systemctl", "is-active", "--", "nginx", out=b"active\n")
    assert result(ServiceActive("nginx"), guest) == CheckResult("service nginx", True, "active")
    runs(host, "systemctl", "is-active", "--", "nginx", code=3, out=b"failed\n")
    assert result(ServiceActive("nginx"), guest) == CheckResult("service nginx", False, "it is failed")


def test_a_guest_without_systemd_is_not_asked_again_and_again(host: FakeHypervisor, guest: Drilled) -> None:
    patient = Drilled(host, UUID, guest.console, time.monotonic() + 3600, 0.01)
    assert not result(ServiceActive("nginx"), patient).passed


def test_a_script_says_how_it_went(host: FakeHypervisor, guest: Drilled) -> None:
    runs(host, "/bin/sh", "-s", out=b"one\ntwo\n")
    assert result(ScriptSucceeds("smoke", b"..."), guest) == CheckResult("script smoke", True, "exit code 0: two")
    runs(host, "/bin/sh", "-s", code=7, err=b"out of order\n")
    assert result(ScriptSucceeds("smoke", b"..."), guest).evidence == "exit code 7: out of order"
    host.agent(UUID).present = False
    assert not result(ScriptSucceeds("smoke", b"..."), guest).passed


def names(checks: list[Check]) -> list[str]:
    return [check.name for check in checks]


def test_by_default_the_agent_answers_and_the_witness_agrees() -> None:
    up, afterwards = choose_checks(Wanted(), ALL, {"/b": HASH, "/a": HASH})
    assert (names(up), names(afterwards)) == (["agent answers"], ["file /a", "file /b"])


def test_a_guest_without_agent_must_ask_for_a_login() -> None:
    up, afterwards = choose_checks(Wanted(), NO_AGENT, {"/a": HASH})
    assert (names(up), names(afterwards)) == (["console shows 'login:'"], [])
    up, _ = choose_checks(Wanted(console=("ready",)), NO_AGENT, {})
    assert names(up) == ["console shows 'ready'"]


def test_all_that_is_wanted_is_checked() -> None:
    wanted = Wanted(services=("nginx",), scripts={"smoke": b""}, console=("hello",), files=("/a",))
    up, afterwards = choose_checks(wanted, ALL, {"/a": HASH, "/b": HASH})
    assert names(up) == ["agent answers", "console shows 'hello'"]
    assert names(afterwards) == ["file /a", "service nginx", "script smoke"]


@pytest.mark.parametrize(
    ("wanted", "has"),
    [
        (Wanted(), NOTHING),
        (Wanted(services=("nginx",)), NO_AGENT),
        (Wanted(scripts={"smoke": b""}), NO_AGENT),
        (Wanted(files=("/a",)), NO_AGENT),
        (Wanted(files=("/unknown",)), ALL),
        (Wanted(console=("hello",)), ALL._replace(console=False)),
        (Wanted(agent=True), NO_AGENT),
    ],
)
def test_what_could_not_fail_or_not_be_checked_is_refused(wanted: Wanted, has: Traits) -> None:
    with pytest.raises(ConfigError):
        choose_checks(wanted, has, {"/a": HASH})
