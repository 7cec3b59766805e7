# SPDX-License-Identifier: Apache-2.0
"""The stage of the demo: acts, commands that are really typed, what they print, and what they prove."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import LabError

WIDTH = 100
BOLD, DIM, GREEN, RED = "1", "2", "32", "31"
LONG_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class NotProvenError(LabError):
    """The demo claims something that is not so."""


@dataclass(frozen=True, slots=True)
class Typed:
    """What came of a command; `wall_s` is how long it took."""

    output: str
    wall_s: float

    def table(self) -> dict[str, dict[str, str]]:
        """The table it printed, by the first column: what each row has below each heading.

        Raises:
            NotProvenError: it printed none.
        """
        rows = [re.split(r"\s{2,}", line.strip()) for line in self.output.splitlines()]
        for number, headings in enumerate(rows):
            if len(headings) > 3:
                below = [row for row in rows[number + 1 :] if len(row) == len(headings)]
                return {row[0]: dict(zip(headings, row, strict=True)) for row in below}
        raise NotProvenError(f"no table in what was printed: {self.output!r}")

    def find(self, pattern: str) -> str:
        """What the pattern's group matches. Raises NotProvenError if it does not."""
        if found := re.search(pattern, self.output, re.MULTILINE):
            return found[1]
        raise NotProvenError(f"no {pattern!r} in what was printed: {self.output!r}")


def in_bytes(text: str) -> int:
    """A size as it was printed: "7.0 MiB". Raises NotProvenError."""
    number, _, unit = text.partition(" ")
    if unit not in UNITS:
        raise NotProvenError(f"{text!r} is no size")
    return int(float(number) * UNITS[unit])


class Stage:
    """Where the demo is played; in colour only on a terminal."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Commands run in `folder`, with `environment` added to ours."""
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._acts = 0
        self._facts: list[tuple[str, str]] = []

    def act(self, title: str) -> None:
        """A new act."""
        self._acts += 1
        print(f"\n{paint(f'{self._acts}. {title}', BOLD)}\n", flush=True)

    def export(self, **variables: Path) -> None:
        """Set variables of the environment, as one would in a shell."""
        self._environment.update({name: str(value) for name, value in variables.items()})
        self._prompt("export " + " ".join(f"{name}={value}" for name, value in variables.items()))

    def type(self, command: str, *, exit_code: int = 0) -> Typed:
        """Run a command line in a shell, and show both it and what it prints.

        Raises:
            NotProvenError: it ends with another exit code.
        """
        self._prompt(command)
        begun_s = time.monotonic()
        lines = []
        with subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=self._folder,
            env=self._environment,
            start_new_session=True,  # on a terminal virsh would ask for passwords, and complain if it cannot
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    lines.append(line)
                    _show(lines)
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                raise
        wall_s = time.monotonic() - begun_s
        if process.returncode != exit_code:
            raise NotProvenError(f"{command!r} ends with exit code {process.returncode}, not {exit_code}")
        return Typed("".join(lines), wall_s)

    def guest_says(self, lines: list[str]) -> None:
        """What the guest wrote on its console."""
        for line in lines:
            print(paint("    guest: " + LONG_DIGEST.sub(r"\1...", line), DIM), flush=True)

    def means(self, text: str) -> None:
        """What has just been seen, in a sentence."""
        print(textwrap.fill(text, WIDTH, initial_indent="  => ", subsequent_indent="     "), flush=True)

    def prove(self, subject: str, fact: str, *, holds: bool) -> None:
        """Keep a fact for the end. Raises NotProvenError if it does not hold."""
        if not holds:
            raise NotProvenError(f"{subject}: it is not so: {fact}")
        self._facts.append((subject, fact))

    def close(self, wall_s: float) -> None:
        """What was proven."""
        print(f"\n{paint('Proven', BOLD)}\n")
        width = max(len(subject) for subject, _ in self._facts)
        for subject, fact in self._facts:
            print(f"  {paint('ok', GREEN)}  {subject:<{width}}  {fact}")
        print(f"\nin {wall_s:.0f} s, all of it removed again", flush=True)

    def _prompt(self, command: str) -> None:
        print(f"  {paint(f'$ {command}', BOLD)}", flush=True)


def _show(lines: list[str]) -> None:
    """Show the last of the lines, and blank ones before it; so that none is shown at the end."""
    if lines[-1].strip():
        blank = next((n for n, line in enumerate(reversed(lines[:-1])) if line.strip()), 0)
        print("\n" * blank + f"    {lines[-1].rstrip()}", flush=True)


def paint(text: str, style: str) -> str:
    """Text in a style, on a terminal that shows any."""
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        return f"\x1b[{style}m{text}\x1b[0m"
    return text
