# SPDX-License-Identifier: Apache-2.0
"""Looks at a host, changing nothing, at just what a plan wants to change."""

from __future__ import annotations

import hashlib
import shlex
from collections import defaultdict
from collections.abc import Sequence

from msgspec import Struct

from donjon.errors import HostError
from donjon.harden.compile import library
from donjon.harden.runner import Output, Runner

SURVEY_S = 120.0
DIGEST_LENGTH = 64
_Answers = dict[tuple[str, int], bytes]
# Numbers and hexadecimal text only: nothing a host prints can be mistaken for something else.
_HEAD = """\
HOST= ID= GUARDED= LAST= TOTAL= ACTIVATIONS= TESTS=
hex() { od -An -v -tx1 | tr -d ' \\n'; }
answer() { printf '%s %s %s\\n' "$1" "$2" "$(hex)"; }
DONJON_CALLER=$PPID
"""
_TAIL = "host_id | answer host 0\nsession | answer session 0\n"


class Seen(Struct, frozen=True):
    """How a host looks: answers in the order of the questions; `files` are (state, text), `outputs` (exit code, text).

    States are those of target.sh: a SHA-256 or "MODE UID GID", "absent", or what is there instead. `accesses` are
    (state, "USER:GROUP").
    """

    host: str
    session: str
    files: tuple[tuple[str, bytes], ...]
    accesses: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[int, bytes], ...]

    @property
    def admin(self) -> tuple[str, int] | None:
        """The address of whoever asks, and the port of the ssh server; None if it is no ssh connection."""
        words = self.session.split()
        return (words[0].partition("%")[0], int(words[3])) if len(words) == 4 and words[3].isdigit() else None


def survey(runner: Runner, files: Sequence[str], accesses: Sequence[str], commands: Sequence[str]) -> Seen:
    """Look at the texts of files, at permissions, and at what commands (that change nothing) print.

    Raises:
        HostError: the host cannot be reached, or does not answer as it should.
    """
    script = [_HEAD, library()]
    for number, path in enumerate(files):
        here = f'"$ROOT"{shlex.quote(path)}'
        script.append(f"file_state {here} | answer state {number}")
        script.append(f"if [ -f {here} ]; then answer file {number} <{here}; fi")
    for number, path in enumerate(accesses):
        here = f'"$ROOT"{shlex.quote(path)}'
        script.append(f"access_state {here} | answer access {number}")
        script.append(f"stat -c %U:%G {here} 2>/dev/null | answer owner {number}")
    for number, command in enumerate(commands):
        asked = f"sh -ec {shlex.quote(command)} </dev/null"
        script.append(f'{{ {asked}; printf "\\n%s" "$?"; }} | answer output {number}')
    script.append(_TAIL)
    output = runner.run("\n".join(script).encode(), timeout_s=SURVEY_S)
    answers = _answers(output)
    return Seen(
        _word(answers["host", 0]),
        _word(answers["session", 0]),
        tuple(_file(path, answers, number) for number, path in enumerate(files)),
        tuple((_word(answers["access", number]), _word(answers["owner", number])) for number in range(len(accesses))),
        tuple(_output(answers["output", number]) for number in range(len(commands))),
    )


def _answers(output: Output) -> _Answers:
    answers: _Answers = defaultdict(bytes)
    try:
        for line in output.out.decode("ascii").splitlines():
            kind, number, text = line.split(" ")
            answers[kind, int(number)] = bytes.fromhex(text)
    except ValueError as error:
        raise HostError("cannot look at the host: its answer makes no sense") from error
    if output.rc != 0 or ("session", 0) not in answers:
        raise HostError(f"cannot look at the host: {output.complaint}")
    return answers


def _file(path: str, answers: _Answers, number: int) -> tuple[str, bytes]:
    state, text = _word(answers["state", number]), answers["file", number]
    if len(state) == DIGEST_LENGTH and hashlib.sha256(text).hexdigest() != state:
        raise HostError(f"cannot look at {path}: it changes while it is read")
    return state, text


def _output(answer: bytes) -> tuple[int, bytes]:
    text, _, rc = answer.rpartition(b"\n")
    return (int(rc), text) if rc.isdigit() else (1, b"")


def _word(answer: bytes) -> str:
    return answer.decode(errors="replace").strip()
