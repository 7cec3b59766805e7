# SPDX-License-Identifier: Apache-2.0
"""What the fixes of a plan want, and how the host looks just there: from both come the plan's steps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from msgspec import Struct

from donjon.harden import firewall
from donjon.harden.change import Chain, Command, Document, Edit, Permissions, Want
from donjon.harden.hunks import hunks_between
from donjon.harden.plan import ABSENT, AccessStep, CommandStep, DocumentStep, FileStep, Hunk, Step
from donjon.harden.runner import Runner
from donjon.harden.survey import DIGEST_LENGTH, survey

FIREWALL = ("firewall",)


class CannotBeDone(Exception):  # noqa: N818 -- not an error of the program: the finding gets instructions instead
    """What a fix wants cannot be done on this host; the message says why."""


class Looks(Struct, frozen=True):
    """How a host looks where fixes want to change it.

    `files`: path -> (state, text); `accesses`: path -> (state, "USER:GROUP"); `outputs`: sh -> (exit code, text).
    """

    host: str
    admin: tuple[str, int] | None
    files: dict[str, tuple[str, bytes]]
    accesses: dict[str, tuple[str, str]]
    outputs: dict[str, tuple[int, bytes]]


def look(runner: Runner, wants: Iterable[Want], previews: Iterable[str]) -> Looks:
    """Look at a host, at all that is wanted; `previews` are pieces of sh to run, too. Raises HostError."""
    wants = list(wants)
    files = _each_once(want.path for want in wants if isinstance(want, Edit))
    accesses = _each_once(want.path for want in wants if isinstance(want, Permissions))
    asked = _each_once([*(text for want in wants for text in _questions(want)), *previews])
    seen = survey(runner, files, accesses, asked)
    return Looks(
        seen.host,
        seen.admin,
        dict(zip(files, seen.files, strict=True)),
        dict(zip(accesses, seen.accesses, strict=True)),
        dict(zip(asked, seen.outputs, strict=True)),
    )


def key(want: Want) -> tuple[str, ...]:
    """Wants of the same key become one step."""
    match want:
        case Edit():
            return ("file", want.path)
        case Permissions():
            return ("access", want.path)
        case Document():
            return ("document", want.read, want.write)
        case Command():
            return ("command", want.do, want.undo)
        case Chain():
            return FIREWALL


def check(want: Want, looks: Looks) -> None:
    """Do nothing if this can be done.

    Raises:
        CannotBeDone: it cannot; says why.
    """
    try:
        steps((want,), looks)
    except ValueError as error:
        raise CannotBeDone(str(error)) from error
    if isinstance(want, Chain):
        printed(firewall.preview((want,)), looks)


def steps(wants: tuple[Want, ...], looks: Looks) -> list[Step]:
    """The steps that do what all these wants of one key want; none if it is so already.

    Raises:
        CannotBeDone: they cannot be done on this host.
        ValueError: a text cannot be rewritten.
    """
    first = wants[0]
    match first:
        case Edit():
            return _file([want for want in wants if isinstance(want, Edit)], looks)
        case Permissions():
            return _access([want for want in wants if isinstance(want, Permissions)], looks)
        case Document():
            return _document([want for want in wants if isinstance(want, Document)], looks)
        case Command():
            return [_command(first, looks)]
        case Chain():
            now, later = firewall.commands(tuple(want for want in wants if isinstance(want, Chain)), looks.admin)
            return [_command(now, looks), _command(later, looks, at_confirm=True)]


def printed(command: str, looks: Looks) -> bytes:
    """What a command printed that was run while looking. Raises CannotBeDone if it failed."""
    rc, text = looks.outputs[command]
    if rc != 0:
        said = text.decode(errors="replace").strip().splitlines()
        raise CannotBeDone(said[-1] if said else f"a command failed with {rc}: {command.splitlines()[0]}")
    return text


def _questions(want: Want) -> tuple[str, ...]:
    match want:
        case Document():
            return (want.read,)
        case Command():
            return (want.state,)
        case Chain():
            return (firewall.preview((want,)), *(command.state for command in firewall.commands((want,), None)))
        case _:
            return ()


def _file(edits: list[Edit], looks: Looks) -> list[Step]:
    path, mode = edits[0].path, next((edit.mode for edit in edits if edit.mode is not None), None)
    state, content = looks.files[path]
    if state == ABSENT and mode is None:
        raise CannotBeDone(f"{path} is not there")
    if state != ABSENT and len(state) != DIGEST_LENGTH:
        raise CannotBeDone(f"{path}: {state}")
    before, encoding = _text(content)
    after = before
    for edit in edits:
        after = edit.rewrite(after)
    if after == before:
        return []
    digest = hashlib.sha256(after.encode(encoding)).hexdigest()
    return [FileStep(path, state, digest, _hunks(before, after, encoding), 0o644 if mode is None else mode)]


def _document(edits: list[Document], looks: Looks) -> list[Step]:
    one = edits[0]
    content = printed(one.read, looks)
    before, encoding = _text(content)
    after = before
    for edit in edits:
        after = edit.rewrite(after)
    if after == before:
        return []
    was, will_be = (hashlib.sha256(text).hexdigest() for text in (content, after.encode(encoding)))
    return [DocumentStep(one.name, one.read, one.write, was, will_be, _hunks(before, after, encoding))]


def _access(wants: list[Permissions], looks: Looks) -> list[Step]:
    path = wants[0].path
    state, owner = looks.accesses[path]
    if not state[:1].isdigit():
        raise CannotBeDone(f"{path}: {state}")
    mode = before = int(state.split()[0], 8)
    wanted = ""
    for want in wants:
        mode &= want.at_most
        wanted = want.owner or wanted
    if mode == before and wanted in ("", owner):
        return []
    return [AccessStep(path, state, mode, "" if wanted == owner else wanted)]


def _command(want: Command, looks: Looks, at_confirm: bool = False) -> CommandStep:
    digest = hashlib.sha256(printed(want.state, looks)).hexdigest()
    return CommandStep(want.title, want.do, want.undo, want.state, digest, at_confirm)


def _hunks(before: str, after: str, encoding: str) -> tuple[Hunk, ...]:
    hunks = hunks_between(before, after)
    if any("\0" in text or not (encoding == "utf-8" or text.isascii()) for hunk in hunks for text in hunk.added):
        raise CannotBeDone("a line that would change is no text in UTF-8")
    return hunks


def _text(content: bytes) -> tuple[str, str]:
    """The text of a file and its encoding; Latin-1 stands for any that is unknown: its bytes stay what they are."""
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return content.decode("latin-1"), "latin-1"


def _each_once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
