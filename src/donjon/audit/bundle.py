# SPDX-License-Identifier: Apache-2.0
"""What the collector brought from a host: outputs of probes, texts of files, and how paths look.

A bundle says three things of anything asked of it: what was seen, that it was looked for and is not there, or that it
could not be seen. How a bundle is read from a tar file: `donjon.audit.collect.bundle_file`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from posixpath import dirname, normpath

from msgspec import Struct, field

from donjon.audit.fact import Absent, Fact, Known, Unknown

NOT_FOUND = 127  # what a shell answers when there is no such program
TIMED_OUT = 124  # what timeout(1) answers


class Output(Struct, frozen=True):
    """What a probe printed, and its exit code."""

    rc: int
    out: str
    err: str = ""


class PathInfo(Struct, frozen=True):
    """How a path looks. `kind` is a letter of `find -printf %y`: f file, d directory, l link, s socket, b, c, p."""

    path: str
    mode: int
    uid: int
    gid: int
    user: str = ""
    group: str = ""
    kind: str = "f"
    size: int = 0
    mtime: int = 0
    target: str = ""

    @property
    def others(self) -> int:
        """Permission bits of everybody else, 0 to 7."""
        return self.mode & 0o7

    @property
    def shown(self) -> str:
        """As evidence: "0644 root:root"."""
        return f"{self.mode:04o} {self.user or self.uid}:{self.group or self.gid}"


class Paths(Struct, frozen=True):
    """How paths look. `looked`: root -> depth seen (0: only itself); `refused`: path -> why it could not be seen."""

    seen: dict[str, PathInfo] = field(default_factory=dict)
    looked: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def at(self, path: str) -> Fact[PathInfo]:
        """How this path looks; links are not followed."""
        path = normpath(path)
        if path in self.seen:
            return Known(self.seen[path], path)
        above = path
        for depth in range(path.count("/") + 1):
            if above in self.refused:
                return Unknown(f"{above}: {self.refused[above]}")
            if self.looked.get(above, -1) >= depth:
                return Absent(path)
            above = dirname(above)
        return Unknown(f"nobody looked at {path}")

    def below(self, directory: str, depth: int = 1) -> Fact[tuple[PathInfo, ...]]:
        """How everything below a directory looks, down to `depth`; without the directory itself."""
        here = self.at(directory)
        if not isinstance(here, Known):
            return here
        directory = here.value.path
        if not self._saw(directory, depth):
            return Unknown(f"nobody looked below {directory} so deep")
        prefix = directory.rstrip("/") + "/"
        unseen = [path for path in self.refused if path == directory or path.startswith(prefix)]
        if unseen:
            return Unknown(f"{unseen[0]}: {self.refused[unseen[0]]}")
        found = (info for path, info in self.seen.items() if path.startswith(prefix))
        return Known(tuple(info for info in found if info.path[len(prefix) :].count("/") < depth), directory)

    def _saw(self, directory: str, depth: int) -> bool:
        above = directory
        for up in range(directory.count("/") + 1):
            if self.looked.get(above, -1) >= up + depth:
                return True
            above = dirname(above)
        return False


class Manifest(Struct, frozen=True):
    """Who collected what, when and how. `started` is ISO 8601 in UTC, by the clock of the host."""

    collector: str = ""
    sha256: str = ""
    host: str = ""
    started: str = ""
    user: str = ""
    probes: tuple[str, ...] = ()


class Bundle(Struct, frozen=True):
    """All that was collected from one host.

    `files`: path -> text, secrets blanked; `refused`: path -> why it is not here;
    `asked`: every path and pattern that was asked for.
    """

    manifest: Manifest
    commands: dict[str, Output] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    asked: frozenset[str] = frozenset()
    refused: dict[str, str] = field(default_factory=dict)
    paths: Paths = field(default_factory=Paths)

    def ran(self, probe: str) -> Fact[Output]:
        """The output of a probe whatever its exit code; Absent if the host has no such program."""
        output = self.commands.get(probe)
        source = f"cmd/{probe}"
        if output is None:
            return Unknown(f"the collector did not run {probe}")
        if output.rc == TIMED_OUT:
            said = output.err.strip().splitlines()
            return Unknown(f"{source}: {said[-1] if said else 'timed out'}")
        if output.rc == NOT_FOUND:
            return Absent(source)
        return Known(output, source)

    def output(self, probe: str) -> Fact[str]:
        """What a probe printed; Unknown if it failed."""
        ran = self.ran(probe)
        if not isinstance(ran, Known):
            return ran
        if ran.value.rc != 0:
            said = ran.value.err.strip().splitlines()
            return Unknown(f"{ran.source} failed ({ran.value.rc})" + (f": {said[-1]}" if said else ""))
        return Known(ran.value.out, ran.source)

    def text(self, path: str) -> Fact[str]:
        """The text of a file, secrets blanked."""
        if path in self.files:
            return Known(self.files[path], path)
        if path in self.refused:
            return Unknown(f"{path}: {self.refused[path]}")
        if any(path == pattern or fnmatchcase(path, pattern) for pattern in self.asked):
            return Absent(path)
        return Unknown(f"the collector did not ask for {path}")

    def texts(self, pattern: str) -> Fact[dict[str, str]]:
        """The texts of all files that match a pattern the collector was given, by path; may be empty."""
        refused = [path for path in self.refused if fnmatchcase(path, pattern)]
        if refused:
            return Unknown(f"{refused[0]}: {self.refused[refused[0]]}")
        if pattern not in self.asked:
            return Unknown(f"the collector did not ask for {pattern}")
        return Known({path: text for path, text in self.files.items() if fnmatchcase(path, pattern)}, pattern)
