# SPDX-License-Identifier: Apache-2.0
"""Restore drills: held, and listed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from donjon.cli.commands.points import find_point
from donjon.cli.options import COMMON, Common, Connect, Given, NoLock
from donjon.cli.page import Page
from donjon.cli.result import Result
from donjon.cli.session import Session
from donjon.cli.text import duration, moment, utc
from donjon.config import DrillSettings
from donjon.errors import ConfigError
from donjon.restore.drill import Drill, DrillOptions
from donjon.restore.drill_checks import Wanted
from donjon.restore.instant_state import InstantStates
from donjon.restore.server_process import ServerProcesses
from donjon.state.drills import CheckResult, DrillResult


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """What is checked besides the guest's agent and witness."""

    check_service: Annotated[tuple[str, ...], Parameter(metavar="NAME")] = ()
    """systemd says that this service is active; may be repeated."""

    check_script: Annotated[tuple[str, ...], Parameter(metavar="FILE|COMMAND")] = ()
    """The guest's /bin/sh runs this file of the host, or this command, and exits with 0; may be repeated."""

    check_console: Annotated[tuple[str, ...], Parameter(metavar="TEXT")] = ()
    """The guest says this on its serial console; may be repeated."""

    check_file: Annotated[tuple[str, ...], Parameter(metavar="PATH")] = ()
    """This file is what it was at the backup; may be repeated (else all that `backup --witness` kept)."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and how the guest runs."""

    boot_timeout: Annotated[float | None, Parameter(metavar="SECONDS")] = None
    """After that the guest must be up (else 300)."""

    memory: Annotated[int | None, Parameter(metavar="MIB")] = None
    """Memory of the guest, if that is less than the VM has."""

    directory: Annotated[Path | None, Parameter(metavar="DIR")] = None
    """Takes what the guest writes (else /var/tmp)."""

    connect: Connect = None


_CHECKS, _PLACE = Checks(), Place()


@dataclass(frozen=True, slots=True)
class Held:
    """A drill. `restore_point` is the id of the snapshot; times in seconds from the beginning.

    `running_s`: the guest ran, its disks read from the repository; `ready_s`: it was up. `picture`: path of a PNG.
    """

    id: str
    passed: bool
    vm_name: str
    vm_uuid: str
    restore_point: str
    taken_at: datetime
    repository_id: str
    host: str
    begun_at: datetime
    program: str
    running_s: float | None
    ready_s: float | None
    duration_s: float
    checks: tuple[CheckResult, ...]
    notes: tuple[str, ...]
    picture: str | None


@dataclass(frozen=True, slots=True)
class Drilled(Result):
    """What came of a drill."""

    drill: Held

    def show(self, page: Page) -> None:
        """The checks, and what else is to be known."""
        held = self.drill
        verdict = "passed" if held.passed else "FAILED"
        page.line(f"{held.vm_name} {held.restore_point[:8]} of {moment(held.taken_at)}: drill {verdict}", bold=True)
        rows = [("ok" if check.passed else "FAILED", check.name, check.evidence) for check in held.checks]
        page.table(("", "check", "seen"), rows)
        times = (("running", held.running_s), ("up", held.ready_s), ("done", held.duration_s))
        page.line(", ".join(f"{what} after {duration(time)}" for what, time in times if time is not None))
        for note in held.notes:
            page.line(f"note: {note}")
        if held.picture:
            page.line(f"picture: {held.picture}")

    @property
    def exit_code(self) -> int:
        """1 if a check failed."""
        return 0 if self.drill.passed else 1


@dataclass(frozen=True, slots=True)
class DrillList(Result):
    """Drills that were held on this host, oldest first."""

    drills: tuple[Held, ...]

    def show(self, page: Page) -> None:
        """A table."""
        rows = [
            (
                moment(held.begun_at),
                held.vm_name,
                held.restore_point[:8],
                "passed" if held.passed else "FAILED",
                "; ".join(check.name for check in held.checks if not check.passed) or "-",
            )
            for held in self.drills
        ]
        if rows:
            page.table(("held", "VM", "restore point", "result", "failed"), rows)
        else:
            page.line("no drills yet; `donjon drill VM` holds one")


def drill(
    vm: Annotated[
        str | None,
        Parameter(
            metavar="VM[@WHEN]",
            help="VM or VM@WHEN: name or UUID, and latest, the first digits of an id, or a time like 2026-11-23T08:00.",
        ),
    ] = None,
    /,
    *,
    list: Annotated[bool, Parameter(help="List the drills that were held, of this VM or of all.")] = False,
    checks: Checks = _CHECKS,
    place: Place = _PLACE,
    no_lock: NoLock = False,
    common: Common = COMMON,
    program: Given,
) -> Drilled | DrillList:
    """Prove that a restore point can be restored.

    It runs from the repository as a guest of another name, UUID and addresses, in a network of its own, without any
    device of the host or disk of the original. It must come up: its agent answers, or, without one, its console asks
    for a login. Files whose hashes were kept at the backup (`donjon backup --witness`) are compared, and whatever
    else is asked for here or under [drill.VM] of the configuration is checked. Then all of it is removed; the result
    and a picture of its screen are kept. Exit code 1 if a check failed.

    Examples:
        donjon drill web01

        donjon drill web01@2026-11-22 --check-service nginx --check-script ./smoke-test.sh --memory 1024

        donjon drill --list
    """
    session = Session(common, program)
    if list:
        held = (result for result in program.drills.list() if vm in (None, result.vm_name, result.vm_uuid))
        return DrillList(tuple(map(describe_drill, held)))
    if vm is None:
        raise ConfigError("cannot drill: no VM was said", hint="say a name, or --list")
    with session.ledger() as ledger, session.reading(no_lock=no_lock) as repository:
        point = find_point(session.restore_points(repository), vm)
        settings = session.configuration.drill.get(point.vm_name, DrillSettings())
        options = _options(checks, place, settings)
        states = InstantStates(program.instant_directory)
        with session.connect(place.connect or settings.connect) as hypervisor:
            session.tell(f"drilling {point.vm_name} ({point.id[:8]}) ...")
            servers = ServerProcesses(states, no_lock=no_lock)
            held_here = Drill(hypervisor, states, servers, program.drills, ledger)
            return Drilled(describe_drill(held_here.hold(repository, point, options)))


def describe_drill(result: DrillResult) -> Held:
    """A drill as it is shown."""
    return Held(
        id=result.id,
        passed=result.passed,
        vm_name=result.vm_name,
        vm_uuid=result.vm_uuid,
        restore_point=result.point,
        taken_at=utc(result.taken_at),
        repository_id=result.repository_id,
        host=result.host,
        begun_at=utc(result.begun_at),
        program=result.program,
        running_s=result.running_s,
        ready_s=result.ready_s,
        duration_s=result.duration_s,
        checks=result.checks,
        notes=result.notes,
        picture=result.picture,
    )


def _options(checks: Checks, place: Place, settings: DrillSettings) -> DrillOptions:
    usual = DrillOptions()
    directory = place.directory or (Path(settings.directory) if settings.directory else usual.directory)
    boot_timeout_s = place.boot_timeout or settings.boot_timeout or usual.boot_timeout_s
    memory_mib = place.memory or settings.memory
    if boot_timeout_s <= 0 or (memory_mib or 1) < 1:
        raise ConfigError("cannot drill: time and memory of the guest are more than none")
    wanted = Wanted(
        services=(*settings.services, *checks.check_service),
        scripts={text: _script(text) for text in (*settings.scripts, *checks.check_script)},
        console=(*settings.console, *checks.check_console),
        files=(*settings.files, *checks.check_file),
    )
    return DrillOptions(wanted, directory.absolute(), boot_timeout_s, memory_mib)


def _script(text: str) -> bytes:
    """What a file here holds, or the command that the text is."""
    try:
        return Path(text).read_bytes() if Path(text).is_file() else f"{text}\n".encode()
    except OSError as error:
        raise ConfigError(f"cannot read {text}: {error.strerror}") from error
