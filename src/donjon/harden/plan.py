# SPDX-License-Identifier: Apache-2.0
"""The plan: a file a person can read, that says for one host what will change, how it is tested and how undone.

Its id is the SHA-256 of all the rest: a plan that was changed after it was made is refused.
"""

from __future__ import annotations

import hashlib

import msgspec
from msgspec import Struct

from donjon.audit.catalogue import FixClass
from donjon.errors import ConfigError

PLAN_SCHEMA = 1
ABSENT = "absent"


class Hunk(Struct, frozen=True, forbid_unknown_fields=True):
    """From this line on (the first is 1), `removed` lines make room for `added` ones; lines keep their ends."""

    line: int
    removed: tuple[str, ...]
    added: tuple[str, ...]


class FileStep(Struct, frozen=True, forbid_unknown_fields=True, tag="file"):
    """The text of a file changes; `before` (or "absent") and `after` are SHA-256, `mode` is that of a new file."""

    path: str
    before: str
    after: str
    hunks: tuple[Hunk, ...]
    mode: int = 0o644

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"write {self.path}" if self.before == ABSENT else f"edit {self.path}"


class DocumentStep(Struct, frozen=True, forbid_unknown_fields=True, tag="document"):
    """What `read` prints is changed and given to `write`, as "$FILE"."""

    name: str
    read: str
    write: str
    before: str
    after: str
    hunks: tuple[Hunk, ...]

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"edit {self.name}"


class AccessStep(Struct, frozen=True, forbid_unknown_fields=True, tag="access"):
    """Permissions of a path change; `before` is "MODE UID GID", the mode in octal; `owner` "" stays as it is."""

    path: str
    before: str
    mode: int
    owner: str = ""

    @property
    def title(self) -> str:
        """What is done, in a few words."""
        return f"permissions of {self.path}: {self.before} -> {self.mode:o} {self.owner}".rstrip()


class CommandStep(Struct, frozen=True, forbid_unknown_fields=True, tag="command"):
    """Commands run; `before` is the SHA-256 of what `state` prints. `at_confirm`: not when applied, but confirmed."""

    title: str
    do: str
    undo: str
    state: str
    before: str
    at_confirm: bool = False


Step = FileStep | DocumentStep | AccessStep | CommandStep


def at_confirm(step: Step) -> bool:
    """Whether a step is done when the plan is confirmed; these are a plan's last steps."""
    return isinstance(step, CommandStep) and step.at_confirm


class PlannedChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What one fix wants, and by which `steps` of the plan (from 1 on) that is done; `shown` came of its preview."""

    control: str
    subject: str
    name: str
    title: str
    fix_class: FixClass
    steps: tuple[int, ...]
    guests: tuple[str, ...] = ()
    note: str = ""
    shown: str = ""


class Instruction(Struct, frozen=True, forbid_unknown_fields=True):
    """A finding that this plan does not fix: what to do by hand, and `reason`, why no program does it."""

    control: str
    subject: str
    name: str
    summary: str
    text: str
    reason: str = ""


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    """All that will be done on one host, in this order: steps, activations, tests; undone in the opposite one.

    `host` and `name` as in `donjon.audit.facts.platform`; `made` is ISO 8601 in UTC; `kept` are the addresses that no
    firewall step shuts out.
    """

    id: str
    host: str
    name: str
    made: str
    changes: tuple[PlannedChange, ...] = ()
    steps: tuple[Step, ...] = ()
    activations: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    instructions: tuple[Instruction, ...] = ()
    kept: tuple[str, ...] = ()
    schema: int = PLAN_SCHEMA

    @property
    def guarded(self) -> bool:
        """Whether it must be confirmed over a new connection, or is undone."""
        return any(change.fix_class is FixClass.GUARDED for change in self.changes)


def named(plan: Plan) -> Plan:
    """The same plan with the id that is right for it."""
    nameless = msgspec.json.encode(msgspec.structs.replace(plan, id=""))
    return msgspec.structs.replace(plan, id=hashlib.sha256(nameless).hexdigest()[:24])


def encode(plan: Plan) -> bytes:
    """The plan as JSON, laid out for people to read."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n"


def decode(content: bytes, origin: str) -> Plan:
    """The plan of a file.

    Raises:
        ConfigError: it is none, or it was changed after it was made.
    """
    try:
        plan = msgspec.json.decode(content, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the plan {origin}: {error}") from error
    if named(plan).id != plan.id or plan.schema != PLAN_SCHEMA:
        raise ConfigError(
            f"cannot use the plan {origin}: it was changed after it was made, or by another version of donjon",
            hint="make it anew with `donjon harden plan`; leave controls out there, not in the file",
        )
    return plan
