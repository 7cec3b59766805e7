# SPDX-License-Identifier: Apache-2.0
"""Where a repository's password comes from: never from the command line, where every user could read it."""

from __future__ import annotations

import getpass
import os
import shlex
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from donjon.errors import ConfigError
from donjon.host_command import run

CREDENTIAL = "donjon-password"
_COMMAND_TIMEOUT_S = 120.0
_HINT = "give --password-file or --password-command, or set one of DONJON_PASSWORD[_FILE|_COMMAND]"


@dataclass(frozen=True, slots=True)
class PasswordSource:
    """Where to look, first to last: `file` or `command`, in that order, if one is set."""

    file: str | None = None
    command: str | None = None

    def __bool__(self) -> bool:
        return self.file is not None or self.command is not None

    def read(self, warn: Callable[[str], None]) -> str:
        """The password. Raises ConfigError, HostError."""
        if self.file is not None:
            return read_password_file(Path(self.file), warn)
        assert self.command is not None
        return _run_command(self.command)


def find_password(sources: tuple[PasswordSource, ...], environ: Mapping[str, str], warn: Callable[[str], None]) -> str:
    """The password of an existing repository.

    Looked for in `sources` first, then in the environment, then among the service's credentials; whoever sits at a
    terminal is asked.

    Raises:
        ConfigError: nobody says it.
    """
    for source in (*sources, _from_environment(environ)):
        if source:
            return source.read(warn)
    if password := environ.get("DONJON_PASSWORD"):
        return password
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(directory) / CREDENTIAL
        if credential.is_file():
            return read_password_file(credential, warn)
    return _ask("Password of the repository: ")


def find_new_password(
    sources: tuple[PasswordSource, ...], environ: Mapping[str, str], warn: Callable[[str], None]
) -> str:
    """A password for a new key; one that is typed is asked for twice. Raises ConfigError."""
    if any(sources) or not _can_ask():
        return find_password(sources, environ, warn)
    if _from_environment(environ) or environ.get("DONJON_PASSWORD"):
        return find_password(sources, environ, warn)
    return ask_twice()


def ask_twice() -> str:
    """A new password from whoever sits at the terminal. Raises ConfigError."""
    password = _ask("New password: ")
    if not password:
        raise ConfigError("cannot use an empty password")
    if _ask("The same again: ") != password:
        raise ConfigError("cannot use the new password: it was not typed the same twice")
    return password


def read_password_file(path: Path, warn: Callable[[str], None]) -> str:
    """The first line of a file, which only its owner should be able to read. Raises ConfigError."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            status = os.fstat(file.fileno())
            password = file.readline().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"cannot read the password file {path}: {error.strerror}") from error
    if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH:
        warn(f"every user of this host can read {path}; `chmod o-r` it")
    if not password:
        raise ConfigError(f"cannot use the password file {path}: its first line is empty")
    return password


def _from_environment(environ: Mapping[str, str]) -> PasswordSource:
    return PasswordSource(environ.get("DONJON_PASSWORD_FILE") or None, environ.get("DONJON_PASSWORD_COMMAND") or None)


def _run_command(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"cannot run the password command: {error}") from error
    if not words:
        raise ConfigError("cannot run the password command: it is empty")
    printed = run(words, timeout_s=_COMMAND_TIMEOUT_S, operators=True).stdout.decode("utf-8", "surrogateescape")
    password = printed.split("\n", 1)[0].rstrip("\r")
    if not password:
        raise ConfigError(f"cannot use what {words[0]} printed as a password: its first line is empty")
    return password


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _ask(prompt: str) -> str:
    if not _can_ask():
        raise ConfigError("cannot open the repository: no password was given", hint=_HINT)
    try:
        return getpass.getpass(prompt)
    except EOFError as error:
        raise ConfigError("cannot open the repository: no password was given", hint=_HINT) from error
