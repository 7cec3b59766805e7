# SPDX-License-Identifier: Apache-2.0
"""Results of restore drills, which outlive the guests that were drilled: a file for each, and the picture beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from donjon.errors import HostError

KEPT = 30
"""So many results of a VM are kept, and the last that it passed."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found: `evidence` in a line."""

    name: str
    passed: bool
    evidence: str


@dataclass(frozen=True, slots=True)
class DrillResult:
    """What a drill of a restore point has proven.

    `point` is the id of the restore point's snapshot, `point_origin` the one it was taken under, `taken_at` the moment
    it holds. Times in seconds from the beginning: until the guest ran, reading its disks from the repository
    (`running_s`), until it was up (`ready_s`), until all checks were done (`duration_s`); None: it did not come to it.
    `picture` is the path of what its screen showed in the end.
    """

    id: str
    vm_uuid: str
    vm_name: str
    repository_id: str
    point: str
    point_origin: str
    taken_at: datetime
    host: str
    begun_at: datetime
    program: str
    checks: tuple[CheckResult, ...]
    running_s: float | None = None
    ready_s: float | None = None
    duration_s: float = 0.0
    notes: tuple[str, ...] = ()
    picture: str | None = None

    @property
    def passed(self) -> bool:
        """Whether something was checked, and nothing failed."""
        return bool(self.checks) and all(check.passed for check in self.checks)


class Drills:
    """The files, in a directory of their own, which is made when it is needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def picture_path(self, result: DrillResult) -> Path:
        """Where the picture of a result goes."""
        return self._path(result).with_suffix(".png")

    def save(self, result: DrillResult, picture: bytes | None = None) -> None:
        """Keep a result; old ones of the VM go. Raises HostError."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if picture is not None:
                _write(self.picture_path(result), picture)
            _write(self._path(result), msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
        except OSError as error:
            raise HostError(f"cannot keep the result of a drill in {self.directory}: {error.strerror}") from error
        self._prune(result.vm_uuid)

    def list(self) -> list[DrillResult]:
        """All, oldest first. Raises HostError."""
        return sorted(map(_load, self.directory.glob("*.json")), key=lambda result: (result.begun_at, result.id))

    def _prune(self, vm_uuid: str) -> None:
        own = [result for result in self.list() if result.vm_uuid == vm_uuid]
        proven = [result for result in own if result.passed][-1:]
        for result in own[:-KEPT]:
            if result not in proven:
                self.picture_path(result).unlink(missing_ok=True)
                self._path(result).unlink(missing_ok=True)

    def _path(self, result: DrillResult) -> Path:
        return self.directory / f"{result.begun_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{result.id}.json"


def _load(path: Path) -> DrillResult:
    try:
        return msgspec.json.decode(path.read_bytes(), type=DrillResult)
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise HostError(f"cannot read {path}: {error}", hint="was it written by a newer donjon?") from error


def _write(path: Path, content: bytes) -> None:
    """Whole and durable, or not at all. Raises OSError."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
