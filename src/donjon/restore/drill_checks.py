# SPDX-License-Identifier: Apache-2.0
"""What is checked in a guest that was restored for a drill; each check can fail, and says what it has seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from donjon.errors import ConfigError, HostError
from donjon.hypervisors.agent import AgentError, AgentProblem, Executed, GuestAgent
from donjon.model.vm import Power
from donjon.restore.drill_definition import Traits
from donjon.state.drills import CheckResult

LOGIN = "login:"
"""What a guest says on its console when it is up, unless the operator knows better."""

_PING_S = 5.0
_EXECUTE_S = 60.0
_LONGEST_EVIDENCE = 200
_END = 64 << 10
_HINT = "say --check-console TEXT, or have a guest agent in the VM"


class DrilledHost(GuestAgent, Protocol):
    """What runs the guest."""

    def power(self, uuid: str) -> Power:
        """What the guest does now."""
        ...

    def disk_errors(self, uuid: str) -> dict[str, str]:
        """What is wrong with its disks, by target."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator wants to have checked.

    `scripts` by name: input of the guest's shell, whose exit code says how it went. `console` is text that the guest
    must say. `files` must be what they were at the backup, by their hashes there; `agent` must answer; None: if there
    is one.
    """

    agent: bool | None = None
    services: tuple[str, ...] = ()
    scripts: Mapping[str, bytes] | None = None
    console: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drilled:
    """The guest that is drilled; `deadline` of the monotonic clock is when it must be up, `console` what it says."""

    host: DrilledHost
    uuid: str
    console: Path
    deadline: float
    poll_s: float

    def patiently(self, attempt: Callable[[], str | None]) -> str:
        """Try until it gives something, for as long as the guest has to be up; raises HostError with the reason."""
        while True:
            problem = self._problem()
            try:
                if (found := attempt()) is not None:
                    return found
                reason, final = "it did not come in time", False
            except AgentError as error:
                reason, final = str(error), error.kind is AgentProblem.REFUSED
            if problem:
                raise HostError(problem)
            if final or time.monotonic() > self.deadline:
                raise HostError(reason)
            time.sleep(self.poll_s)

    def execute(self, *argv: str, input: bytes | None = None) -> Executed:
        """Run a program in the guest."""
        return self.host.execute(self.uuid, argv, timeout_s=_EXECUTE_S, input=input)

    def said(self) -> str:
        """The end of what the guest has said on its console."""
        try:
            with self.console.open("rb") as file:
                file.seek(max(0, self.console.stat().st_size - _END))
                return file.read(_END).decode(errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise HostError(f"cannot read what the guest says: {error.strerror}") from error

    def _problem(self) -> str | None:
        power = self.host.power(self.uuid)
        if power is Power.RUNNING:
            return None
        errors = self.host.disk_errors(self.uuid) if power is Power.PAUSED else {}
        return f"the guest is {power.value}" + "".join(f"; disk {disk}: {what}" for disk, what in errors.items())


class Check(Protocol):
    """Something that can fail."""

    @property
    def name(self) -> str:
        """In a few words."""
        ...

    def look(self, guest: Drilled) -> tuple[bool, str]:
        """Whether it is as it should be, and what was seen. Raises HostError if that cannot be told: it failed."""
        ...


@dataclass(frozen=True, slots=True)
class AgentAnswers:
    """The guest has come far enough to run its agent."""

    name: str = "agent answers"

    def look(self, guest: Drilled) -> tuple[bool, str]:
        """See Check."""

        def ping() -> str:
            guest.host.ping(guest.uuid, _PING_S)
            return "it answers"

        return True, guest.patiently(ping)


@dataclass(frozen=True, slots=True)
class ConsoleShows:
    """The guest has said something."""

    text: str

    @property
    def name(self) -> str:
        """See Check."""
        return f"console shows {self.text!r}"

    def look(self, guest: Drilled) -> tuple[bool, str]:
        """See Check."""
        try:
            found = guest.patiently(
                lambda: next((line for line in guest.said().split("\n") if self.text in line), None)
            )
        except HostError as error:
            last = guest.said().rstrip().rpartition("\n")[2]
            return False, f"{error}; it last said {last!r}"
        return True, found


@dataclass(frozen=True, slots=True)
class FileUnchanged:
    """A file is what it was when the restore point was taken."""

    path: str
    sha256: str

    @property
    def name(self) -> str:
        """See Check."""
        return f"file {self.path}"

    def look(self, guest: Drilled) -> tuple[bool, str]:
        """See Check."""
        done = guest.execute("sha256sum", "--", self.path)
        found = done.stdout.decode(errors="replace").removeprefix("\\").split(" ")[0]
        if done.exit_code != 0:
            return False, _last_line(done) or "it cannot be read"
        if found != self.sha256:
            return False, f"its SHA-256 is {found}, at the backup it was {self.sha256}"
        return True, f"SHA-256 {found}, as at the backup"


@dataclass(frozen=True, slots=True)
class ServiceActive:
    """systemd says that a service is active, at the latest when the guest has to be up."""

    service: str

    @property
    def name(self) -> str:
        """See Check."""
        return f"service {self.service}"

    def look(self, guest: Drilled) -> tuple[bool, str]:
        """See Check."""
        said = ""

        def ask() -> str | None:
            nonlocal said
            done = guest.execute("systemctl", "is-active", "--", self.service)
            said = _last_line(done)
            return said if done.exit_code == 0 else None

        try:
            return True, guest.patiently(ask)
        except HostError as error:
            return False, f"it is {said}" if said else str(error)


@dataclass(frozen=True, slots=True)
class ScriptSucceeds:
    """The guest's shell runs a script to its end, without complaint."""

    title: str
    script: bytes

    @property
    def name(self) -> str:
        """See Check."""
        return f"script {self.title}"

    def look(self, guest: Drilled) -> tuple[bool, str]:
        """See Check."""
        done = guest.execute("/bin/sh", "-s", input=self.script)
        said = _last_line(done)
        return done.exit_code == 0, f"exit code {done.exit_code}" + (f": {said}" if said else "")


def choose_checks(wanted: Wanted, has: Traits, witness: Mapping[str, str]) -> tuple[list[Check], list[Check]]:
    """Those that show that the guest is up, and those for afterwards.

    Without any wish, the guest is up when its agent answers; a guest without agent, when its console asks for a login.
    Files are compared with the restore point's witness, all of it unless some are named.

    Raises:
        ConfigError: something cannot be checked in this VM, or nothing could fail.
    """
    agent = has.agent if wanted.agent is None else wanted.agent
    _refuse(wanted, has, witness, agent=agent)
    console = wanted.console or ((LOGIN,) if has.console and not agent else ())
    up: list[Check] = [AgentAnswers()] if agent else []
    up += map(ConsoleShows, console)
    if not up:
        raise ConfigError(
            "cannot drill: nothing would be checked; the VM has neither guest agent nor serial console",
            hint="a VM that merely does not fail has proven nothing: have a guest agent in it",
        )
    return up, list(_afterwards(wanted, witness, agent=agent))


def _refuse(wanted: Wanted, has: Traits, witness: Mapping[str, str], *, agent: bool) -> None:
    if wanted.agent and not has.agent:
        raise ConfigError("cannot drill: the VM has no channel for a guest agent", hint=_HINT)
    if wanted.console and not has.console:
        raise ConfigError("cannot drill: the VM has no serial console, which --check-console looks at")
    if (wanted.services or wanted.scripts or wanted.files) and not agent:
        raise ConfigError("cannot drill: services, scripts and files are checked by a guest agent, and there is none")
    if unknown := [path for path in wanted.files if path not in witness]:
        raise ConfigError(
            f"cannot check {', '.join(unknown)}: the restore point does not say what was in there",
            hint="`donjon backup --witness FILE` keeps the hash of a file; `donjon show` lists those that are kept",
        )


def _afterwards(wanted: Wanted, witness: Mapping[str, str], *, agent: bool) -> Iterator[Check]:
    if agent:
        yield from (FileUnchanged(path, witness[path]) for path in wanted.files or sorted(witness))
    yield from map(ServiceActive, wanted.services)
    yield from (ScriptSucceeds(title, script) for title, script in (wanted.scripts or {}).items())


def run_checks(checks: list[Check], guest: Drilled) -> list[CheckResult]:
    """Each, whatever became of others."""
    return [_run(check, guest) for check in checks]


def not_run(checks: list[Check]) -> list[CheckResult]:
    """What is said of them when the guest is not up."""
    return [CheckResult(check.name, False, "not tried: the guest did not come up") for check in checks]


def _run(check: Check, guest: Drilled) -> CheckResult:
    try:
        passed, evidence = check.look(guest)
    except HostError as error:
        passed, evidence = False, str(error)
    return CheckResult(check.name, passed, " ".join(evidence.split())[:_LONGEST_EVIDENCE])


def _last_line(done: Executed) -> str:
    said = (done.stdout + done.stderr).decode(errors="replace").strip()
    return said.rpartition("\n")[2].strip()
