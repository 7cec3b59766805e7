# SPDX-License-Identifier: Apache-2.0
"""The door: words in, an exit code out; whatever goes wrong is said in a sentence."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError

from donjon import __version__
from donjon.cli.app import load_verb, make_app, whole_verb
from donjon.cli.text import safe
from donjon.errors import CancelledError, DonjonError

if TYPE_CHECKING:
    from donjon.cli.result import Result
    from donjon.wiring import Program

NOBODY_READS = 141
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WITH_VALUE = ("-r", "--repo", "--password-file", "--password-command", "--config")
_ALONE = ("--json", "-q", "--quiet", "-v", "--verbose")


def main(argv: Sequence[str] | None = None, program: Program | None = None) -> int:
    """Run donjon; returns its exit code. `program` is None but in tests."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = frozenset(words[: words.index("--")] if "--" in words else words)
    complaint = _Complaint(as_json="--json" in options, verbose=bool({"-v", "--verbose"} & options))
    try:
        with _stopped_by_signals():
            exit_code = _run(words, options, program)
            sys.stdout.flush()
            return exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except KeyboardInterrupt as stop:
        return complaint.say(_cancelled(stop, program))
    except DonjonError as error:
        return complaint.say(error)
    except CycloptsError as error:
        return complaint.say(_usage_error(error))
    except Exception as error:  # noqa: BLE001 - the door: nobody is left to whom it could go on
        return complaint.say(_unexpected(error, program, verbose=complaint.verbose))


def _run(words: list[str], options: frozenset[str], program: Program | None) -> int:
    app = make_app()
    if words == ["--version"]:
        words = ["version"]
    words = whole_verb(_verb_first(app, words))
    load_verb(app, words)
    command, bound, given = app.parse_args(words, exit_on_error=False, print_error=False)
    if "program" in given:
        from donjon.wiring import Program

        bound.arguments["program"] = program or Program()
    result: Result | None = command(*bound.args, **bound.kwargs)
    if result is None:
        return 0
    return _show(result, as_json="--json" in options, quiet=bool({"-q", "--quiet"} & options))


def _show(result: Result, *, as_json: bool, quiet: bool) -> int:
    exit_code = result.exit_code
    if as_json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    elif not (quiet and result.keeps_quiet and exit_code == 0):
        from donjon.cli.page import Page

        result.show(Page(sys.stdout))
    return exit_code


def _verb_first(app: App, words: list[str]) -> list[str]:
    """`donjon -r PLACE backup` is as good as `donjon backup -r PLACE`."""
    at = 0
    while at < len(words) and (words[at] in _ALONE or words[at].partition("=")[0] in _WITH_VALUE):
        at += 2 if words[at] in _WITH_VALUE else 1
    if at == 0 or at >= len(words):
        return words
    verb = len(app.parse_commands(words[at:])[0])
    return words[at : at + verb] + words[:at] + words[at + verb :]


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """The first signal to stop is raised where the program is, so that every `with` cleans up; further ones must wait.

    It is raised as KeyboardInterrupt, which no handler of errors on the way takes for one.
    """

    def stop(number: int, _: FrameType | None) -> None:
        for each in _STOPPING:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.getsignal(number) for number in _STOPPING}
    try:
        for number in _STOPPING:
            if before[number] is not signal.SIG_IGN:  # as nohup wants it
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cancelled(stop: KeyboardInterrupt, program: Program | None) -> CancelledError:
    from donjon import wiring

    notes = list(getattr(stop, "__notes__", ()))
    try:
        notes += [f"still owed: {debt}" for debt in (program or wiring.Program()).left_owed() if not notes]
    except (DonjonError, OSError) as unknown:
        notes.append(str(unknown))
    if not notes:
        return CancelledError(f"stopped by {stop}: everything was put back")
    error = CancelledError(
        f"stopped by {stop}: not everything was put back",
        hint="`donjon owed` shows what is left, `donjon settle` undoes it",
    )
    for note in notes:
        error.add_note(note)
    return error


class _Complaint:
    """How an error is told."""

    def __init__(self, *, as_json: bool, verbose: bool) -> None:
        self._as_json = as_json
        self.verbose = verbose

    def say(self, error: DonjonError) -> int:
        """For people on standard error; with --json for programs on standard output, too."""
        lines = [f"donjon: {error}", *getattr(error, "__notes__", ())]
        if error.hint:
            lines.append(f"hint: {error.hint}")
        with suppress(BrokenPipeError):
            sys.stderr.write("".join(f"{safe(line)}\n" for line in lines))
        if self._as_json:
            import msgspec

            from donjon.cli.result import describe_failure

            sys.stdout.write(msgspec.json.encode(describe_failure(error)).decode() + "\n")
        return error.exit_code


def _usage_error(error: CycloptsError) -> DonjonError:
    error.verbose = False
    return DonjonError(str(error), hint="`donjon --help` lists the verbs, `donjon VERB --help` a verb's options")


def _unexpected(error: Exception, program: Program | None, *, verbose: bool) -> DonjonError:
    """An error nobody thought of: a defect of donjon."""
    story = "".join(traceback.format_exception(error))
    said = f"stopped by an error of its own: {type(error).__name__}: {error}"
    if verbose:
        sys.stderr.write(story)
        return DonjonError(said)
    if path := _keep_traceback(story, program):
        return DonjonError(said, hint=f"please report it together with {path}")
    return DonjonError(said, hint="run it again with -v to see where it came from, and please report that")


def _keep_traceback(story: str, program: Program | None) -> Path | None:
    from donjon import wiring

    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    path = (program or wiring.Program()).state_directory / f"error-{stamp}.txt"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"donjon {__version__}, Python {sys.version}\n{story}")
    except OSError:
        return None
    return path
