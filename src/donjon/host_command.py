# SPDX-License-Identifier: Apache-2.0
"""The only door to other programs: run one to its end, or keep one beside us for as long as it is needed.

Programs are started without a shell, in the C locale, without what says our passwords. None outlives donjon but a
`Companion`, which is there for when donjon dies.

Source: prctl(2), PR_SET_PDEATHSIG (the signal comes when the *thread* that started the child ends).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from donjon.errors import HostError

DEBIAN_PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "setpriv": "util-linux",
    "virsh": "libvirt-clients",
    "systemd-creds": "systemd",
}
COMPLAINT_LENGTH = 600
STOP_S = 10.0
_SECRET = frozenset({"DONJON_PASSWORD", "DONJON_PASSWORD_FILE", "DONJON_PASSWORD_COMMAND", "CREDENTIALS_DIRECTORY"})
"""Variables of our environment that are nobody else's business."""

# Lives as long as donjon does, and so do the helpers it starts: see PR_SET_PDEATHSIG above.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="helper-starter")


class Completed(NamedTuple):
    """A program that has ended; a negative return code is the signal that ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def complaint(self) -> str:
        """What it wrote to standard error, the end of it; if nothing, how it ended."""
        return _verdict(self.returncode, self.stderr)


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    operators: bool = False,
) -> Completed:
    """Run a program to its end.

    Ctrl-C does not reach it: it has a session of its own, and 10 s to end once we are told to stop; the kernel kills
    it when donjon dies.

    Args:
        argv: program, looked up in PATH, and its arguments; no secrets (every user of the host can read them).
        timeout_s: it is killed after that.
        input: what it reads on standard input; None: nothing.
        env: added to our own environment.
        check: False: an exit status other than 0 is no error.
        operators: it is a program of the operator's own choice: it keeps our terminal and all of our environment.

    Raises:
        HostError: it is not installed, did not end in time or, with `check`, failed; says what it complained of.
    """
    words = _words(argv)
    with subprocess.Popen(
        words if operators else _guarded(words),
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(env, secrets=operators),
        start_new_session=not operators,
    ) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise HostError(f"cannot run {_name(words)}: it did not end within {timeout_s:g} s") from error
        except BaseException:
            if not operators:
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=STOP_S)
            process.kill()
            raise
    if check and process.returncode != 0:
        raise HostError(f"cannot run {_name(words)}: {_verdict(process.returncode, stderr)}")
    return Completed(words, process.returncode, stdout, stderr)


class Helper:
    """A program running beside us; made by `running`."""

    def __init__(self, words: tuple[str, ...], process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        self._name = _name(words)
        self._process = process
        self._complaints = complaints

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check_running(self) -> None:
        """Do nothing if it runs.

        Raises:
            HostError: it has ended; says what it complained of.
        """
        if self._process.poll() is not None:
            raise HostError(f"cannot go on with {self._name}: {self._verdict()}")

    def finish(self, timeout_s: float) -> None:
        """Wait until it ends of its own accord.

        Raises:
            HostError: it does not within that time, or fails.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise HostError(f"cannot finish {self._name}: it did not end within {timeout_s:g} s") from error
        if self._process.returncode != 0:
            raise HostError(f"cannot finish {self._name}: {self._verdict()}")

    def _verdict(self) -> str:
        return _verdict(self._process.returncode, _read_again(self._complaints))


@contextmanager
def running(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> Iterator[Helper]:
    """Keep a helper program running for as long as the block lasts; it is gone when the block is left.

    It is stopped politely (SIGTERM), after 10 s by force, and the kernel kills it when donjon dies, however that
    happens. Ctrl-C does not reach it: it has a session of its own. Its standard output goes nowhere.

    Raises:
        HostError: it is not installed.
    """
    words = _words(argv)
    guarded = _guarded(words)
    with tempfile.TemporaryFile() as complaints:
        process = _starter.submit(_start, guarded, complaints, _environment(env)).result()
        try:
            yield Helper(words, process, complaints)
        finally:
            _stop(process)


class Companion:
    """A program that goes on when we die; made by `start_companion`. We write its `input`, and read its `output`."""

    def __init__(self, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        self.input = process.stdin
        self.output = process.stdout
        self._process = process
        self._complaints = complaints

    @property
    def complaint(self) -> str:
        """What it has written to standard error, the end of it."""
        return _read_again(self._complaints).decode(errors="replace").strip()[-COMPLAINT_LENGTH:]

    def leave(self, timeout_s: float) -> None:
        """Close its input, and wait that long for its end; if it does not end, it is left to itself."""
        with suppress(OSError):
            self.input.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)


def start_companion(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> Companion:
    """Start a program that is to outlive us: in a session of its own, killed neither with us nor by us.

    It reads the end of its input when we are gone, and must end by itself then.

    Raises:
        HostError: it is not installed.
    """
    complaints = tempfile.TemporaryFile()  # noqa: SIM115 - goes with the companion
    process = subprocess.Popen(
        _words(argv),
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        env=_environment(env),
        start_new_session=True,
    )
    return Companion(process, complaints)


@contextmanager
def conversing(argv: Sequence[str | Path]) -> Iterator[tuple[Helper, int, int]]:
    """Keep a helper as `running` does, and talk to it: descriptors of its standard input and of its output come too.

    Raises:
        HostError: it is not installed.
    """
    guarded = _guarded(_words(argv))
    with tempfile.TemporaryFile() as complaints:
        pipe = subprocess.PIPE
        process = _starter.submit(_start, guarded, complaints, _environment(None), pipe, pipe).result()
        assert process.stdin
        assert process.stdout
        try:
            yield Helper(_words(argv), process, complaints), process.stdin.fileno(), process.stdout.fileno()
        finally:
            process.stdin.close()
            _stop(process)
            process.stdout.close()


def _start(
    words: tuple[str, ...],
    complaints: IO[bytes],
    env: dict[str, str],
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        stdin=stdin,
        stdout=stdout,
        bufsize=0,
        stderr=complaints,
        env=env,
        start_new_session=True,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _guarded(words: tuple[str, ...]) -> tuple[str, ...]:
    """The same, killed by the kernel when the thread that starts it ends."""
    return _words(["setpriv", "--pdeathsig", "KILL", "--", *words])


def _words(argv: Sequence[str | Path]) -> tuple[str, ...]:
    """The command line, its program as an absolute path."""
    words = tuple(os.fspath(word) for word in argv)
    program = shutil.which(words[0])
    if program is None:
        package = DEBIAN_PACKAGES.get(words[0])
        hint = f"on Debian it is in the package {package}" if package else None
        raise HostError(f"cannot run {_name(words)}: it is not installed", hint=hint)
    return (program, *words[1:])


def _environment(more: Mapping[str, str] | None, *, secrets: bool = False) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if secrets or name not in _SECRET}
    return {**ours, "LC_ALL": "C", **(more or {})}


def _name(words: tuple[str, ...]) -> str:
    return Path(words[0]).name


def _verdict(returncode: int, stderr: bytes) -> str:
    complaint = stderr.decode(errors="replace").strip()[-COMPLAINT_LENGTH:]
    ending = f"signal {-returncode}" if returncode < 0 else f"exit status {returncode}"
    return complaint or f"it ended with {ending}"


def _read_again(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()
