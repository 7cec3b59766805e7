# SPDX-License-Identifier: Apache-2.0
"""Restore drill: a restore point runs as a guest of its own that reaches nothing, is checked, and is gone again."""

from __future__ import annotations

import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from donjon import trace
from donjon.errors import ConfigError, HostError, IntegrityError, RefusedError, StoreError
from donjon.hypervisors.agent import GuestAgent
from donjon.model.restore_point import Manifest, RestorePoint
from donjon.repository.repository import Repository
from donjon.restore.drill_checks import Check, Drilled, Wanted, choose_checks, not_run, run_checks
from donjon.restore.drill_definition import Surroundings, Traits, isolate, traits
from donjon.restore.instant import InstantHost, InstantRestore, Servers
from donjon.restore.instant_state import InstantState, InstantStates
from donjon.restore.whole_vm import RestoreOptions
from donjon.restore_points import PROGRAM, load_definition, load_manifest
from donjon.state.drills import CheckResult, DrillResult, Drills
from donjon.state.ledger import Ledger

DRILL_DEBT = "restore.drill"
BOOT_TIMEOUT_S = 300.0

_PREFIX = "donjon-drill-"
_LONGEST_STEM = 60
"""Of the original's name, in characters."""

_CONSOLE = "console"


class DrillHost(InstantHost, GuestAgent, Protocol):
    """What runs such guests."""


@dataclass(frozen=True, slots=True)
class DrillOptions:
    """What the operator asks for.

    `directory` gets a folder with what the guest writes. The guest must be up after `boot_timeout_s`, and has at most
    `memory_mib` of memory, in MiB; None: as much as the original.
    """

    wanted: Wanted = field(default_factory=Wanted)
    directory: Path = Path("/var/tmp")  # noqa: S108 - sticky, on disk, and entered by QEMU's user
    boot_timeout_s: float = BOOT_TIMEOUT_S
    memory_mib: int | None = None


class _Ground(NamedTuple):
    """What is the drilled guest's alone; `network` None: it has none."""

    name: str
    folder: Path
    network: str | None

    @property
    def console(self) -> Path:
        return self.folder / _CONSOLE


class _Subject(NamedTuple):
    """What is drilled, and how it is judged."""

    point: RestorePoint
    manifest: Manifest
    traits: Traits
    up: list[Check]
    afterwards: list[Check]


class Drill:
    """Holds drills on one host; each leaves nothing but its result."""

    def __init__(
        self,
        host: DrillHost,
        states: InstantStates,
        servers: Servers,
        drills: Drills,
        ledger: Ledger,
        *,
        poll_s: float = 0.3,
    ) -> None:
        """Have what it needs; `poll_s` is the time between two looks at a guest."""
        self._host = host
        self._states = states
        self._instant = InstantRestore(host, states, servers, poll_s=poll_s)
        self._drills = drills
        self._ledger = ledger
        self._poll_s = poll_s

    def hold(self, repository: Repository, point: RestorePoint, options: DrillOptions) -> DrillResult:
        """Run a restore point, check it, and keep what came of it; the guest is gone then, and all that was its.

        Raises:
            ConfigError: it cannot be drilled like that: it has no definition, or nothing would be checked.
            HostError, StoreError, IntegrityError: the guest cannot be started. That is kept as a drill it failed.
            HostError: something of the guest could not be removed, and is still owed; the result is kept.
        """
        subject = _examine(repository, point, options.wanted)
        result = self._begin(repository, point)
        begun_s = time.monotonic()
        with self._ground(subject, result.id, options.directory.absolute()) as ground:
            try:
                state, notes = self._start(repository, subject, ground, options.memory_mib)
            except (HostError, StoreError, IntegrityError) as error:
                failed = CheckResult("guest starts", passed=False, evidence=str(error))
                self._drills.save(replace(result, checks=(failed,), duration_s=time.monotonic() - begun_s))
                raise
            trace.reached("drill.running")
            result = replace(result, running_s=time.monotonic() - begun_s, notes=notes)
            result = self._check(subject, state, ground, result, begun_s + options.boot_timeout_s, begun_s)
            trace.reached("drill.checked")
            result = self._keep(subject, state, replace(result, duration_s=time.monotonic() - begun_s))
            trace.reached("drill.kept")
        return result

    def _begin(self, repository: Repository, point: RestorePoint) -> DrillResult:
        return DrillResult(
            id=secrets.token_hex(4),
            vm_uuid=point.vm_uuid,
            vm_name=point.vm_name,
            repository_id=repository.config.id,
            point=point.id,
            point_origin=point.origin,
            taken_at=point.taken_at,
            host=self._host.host_name,
            begun_at=datetime.now(UTC),
            program=PROGRAM,
            checks=(),
        )

    @contextmanager
    def _ground(self, subject: _Subject, mark: str, directory: Path) -> Iterator[_Ground]:
        """Owe all that is about to be made, and make folder and network."""
        folder = directory / f"{_PREFIX}{mark}"
        name = f"{subject.point.vm_name[:_LONGEST_STEM]}-drill-{mark}"
        network = f"{_PREFIX}{mark}"
        owed = {"uri": self._host.uri, "name": name, "folder": str(folder), "network": network}
        with self._ledger.owing(DRILL_DEBT, states=str(self._states.directory), **owed):
            trace.reached("drill.owed")
            _make_folder(folder)
            has_network = subject.traits.interfaces and self._make_network(network)
            trace.reached("drill.grounded")
            yield _Ground(name, folder, network if has_network else None)

    def _make_network(self, network: str) -> bool:
        """Whether the guest can have one: an ordinary user's cannot."""
        try:
            self._host.create_isolated_network(network)
        except RefusedError:
            return False
        return True

    def _start(
        self, repository: Repository, subject: _Subject, ground: _Ground, memory_mib: int | None
    ) -> tuple[InstantState, tuple[str, ...]]:
        """With what it has lost."""
        targets = {disk.target for disk in subject.manifest.disks}
        around = Surroundings(ground.folder, targets, ground.console, ground.network, memory_mib)
        notes: list[str] = []

        def adapt(definition: str) -> str:
            isolated = isolate(definition, around)
            notes.extend(isolated.notes)
            return isolated.definition

        chosen = RestoreOptions(ground.folder, tpm_root=self._host.tpm_root, name=ground.name, new_identity=True)
        state, told = self._instant.begin(repository, subject.point, self._ledger, chosen, adapt)
        removed = (note for note in told if note.startswith("removed: "))
        return state, (*removed, *notes)

    def _check(
        self,
        subject: _Subject,
        state: InstantState,
        ground: _Ground,
        result: DrillResult,
        deadline: float,
        begun_s: float,
    ) -> DrillResult:
        guest = Drilled(self._host, state.vm_uuid, ground.console, deadline, self._poll_s)
        checks = run_checks(subject.up, guest)
        if not all(check.passed for check in checks):
            return replace(result, checks=(*checks, *not_run(subject.afterwards)))
        ready_s = time.monotonic() - begun_s
        trace.reached("drill.up")
        return replace(result, ready_s=ready_s, checks=(*checks, *run_checks(subject.afterwards, guest)))

    def _keep(self, subject: _Subject, state: InstantState, result: DrillResult) -> DrillResult:
        """With a picture of its screen, if it has one."""
        picture = None
        if subject.traits.screen:
            try:
                picture = self._host.screenshot(state.vm_uuid)
            except HostError as error:
                result = replace(result, notes=(*result.notes, f"no picture: {error}"))
        if picture is not None:
            result = replace(result, picture=str(self._drills.picture_path(result)))
        self._drills.save(result, picture)
        return result


def undo_drill(host: DrillHost, states: InstantStates, servers: Servers, name: str, folder: str, network: str) -> None:
    """Remove all that was made for a drilled guest; succeeds if it is gone. Raises HostError, RefusedError."""
    for state in states.list():
        if (state.vm_name, state.uri) == (name, host.uri):
            InstantRestore(host, states, servers).discard(state)
    host.delete_network(network)
    _remove_folder(Path(folder))


def _examine(repository: Repository, point: RestorePoint, wanted: Wanted) -> _Subject:
    definition = load_definition(repository, point)
    if definition is None:
        raise ConfigError(f"cannot drill {point.vm_name}: its restore point has disks, but no definition")
    manifest, has = load_manifest(repository, point), traits(definition)
    up, afterwards = choose_checks(wanted, has, manifest.witness)
    return _Subject(point, manifest, has, up, afterwards)


def _make_folder(folder: Path) -> None:
    """For the guest's process to enter, and nobody to list. Raises HostError, ConfigError."""
    if not folder.parent.is_dir():
        raise ConfigError(f"cannot use the directory {folder.parent}: there is no such directory")
    try:
        folder.mkdir(mode=0o711)
        folder.chmod(0o711)
    except OSError as error:
        raise HostError(f"cannot make directory {folder}: {error.strerror}") from error


def _remove_folder(folder: Path) -> None:
    """With what the guest and its host have left in it. Raises HostError."""
    try:
        if not folder.name.startswith(_PREFIX) or not stat.S_ISDIR(folder.lstat().st_mode):
            raise HostError(f"cannot remove {folder}: it is not the folder that was made")
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(f"cannot remove {folder}: {error.strerror}") from error
