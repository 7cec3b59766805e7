# SPDX-License-Identifier: Apache-2.0
"""What a verb hands back: its fields are the JSON, `show` writes it for people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Protocol

from donjon.cli.page import Page
from donjon.cli.text import safe, utc
from donjon.errors import DonjonError
from donjon.model.restore_point import RestorePoint


class Result(Protocol):
    """An answer to a question. `keeps_quiet`: it says what was done, and --quiet asks not to be told."""

    keeps_quiet: ClassVar[bool] = False

    def show(self, page: Page) -> None:
        """Write it for people."""
        ...

    @property
    def exit_code(self) -> int:
        """What the program ends with."""
        return 0


class Deed(Result, Protocol):
    """What was done."""

    keeps_quiet: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Failure:
    """What --json prints when a verb fails; `notes` are what went wrong besides, as an undo that failed."""

    error: str
    hint: str | None
    exit_code: int
    notes: tuple[str, ...] = ()


def describe_failure(error: DonjonError) -> Failure:
    """An error as it is shown."""
    hint = safe(error.hint) if error.hint else None
    return Failure(safe(str(error)), hint, error.exit_code, tuple(map(safe, getattr(error, "__notes__", ()))))


@dataclass(frozen=True, slots=True)
class Point:
    """A restore point; `size` of its disks in bytes. `short_id` is enough to name it."""

    id: str
    short_id: str
    vm_name: str
    vm_uuid: str
    host: str
    taken_at: datetime
    method: str
    consistency: str
    size: int


def describe_point(point: RestorePoint) -> Point:
    """A restore point as it is shown."""
    return Point(
        id=point.id,
        short_id=point.id[:8],
        vm_name=point.vm_name.encode("utf-8", "backslashreplace").decode(),
        vm_uuid=point.vm_uuid,
        host=point.host,
        taken_at=utc(point.taken_at),
        method=point.method,
        consistency=point.consistency,
        size=point.size,
    )
