# SPDX-License-Identifier: Apache-2.0
"""Debian packages, fetched and unpacked into a folder; the system's own packages and lists stay as they are.

Source: apt.conf(5), sources.list(5).
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from lab import LabError
from lab.programs import run

SOURCES = Path("/etc/apt")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# A mirror's URI ends in /debian; cloud images name a file of mirrors instead, debian.list.
MIRROR = re.compile(r"(\S+/debian(?:\.list)?)/?(?:\s|$)")


class Apt:
    """apt-get, with a view of the archive given by `options`."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        as_root = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
        self._options = ["-q", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20", *as_root, *options]

    def update(self) -> None:
        """Fetch the lists of packages. Raises LabError."""
        run("apt-get", *self._options, "--error-on=any", "update", timeout_s=300)

    def dependency(self, package: str, pattern: str) -> str:
        """The package that `package` depends on and that matches `pattern`. Raises LabError if there is none."""
        depends = run("apt-cache", *self._options, "depends", package)
        if found := re.search(rf"Depends: ({pattern})$", depends, re.MULTILINE):
            return found[1]
        raise LabError(f"{package} depends on no {pattern}")

    def unpack(self, packages: Sequence[str], into: Path) -> None:
        """Download the packages and unpack their files below `into`. Raises LabError."""
        downloads = into.with_name(into.name + ".debs")
        downloads.mkdir(parents=True, exist_ok=True)
        run("apt-get", *self._options, "download", *packages, folder=downloads, timeout_s=600)
        for package in sorted(downloads.glob("*.deb")):
            run("dpkg-deb", "-x", package, into)
            package.unlink()
        downloads.rmdir()


def archive_of(suite: str, state: Path) -> Apt:
    """The Debian archive's `suite`, at the mirror this machine uses; the lists of packages are kept in `state`.

    Raises:
        LabError: no mirror is configured, or it cannot be reached.
    """
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    sources = state / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {_mirror()} {suite} main\n", encoding="utf-8")
    settings = {
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Default-Release": "",
    }
    apt = Apt([word for name, value in settings.items() for word in ("-o", f"{name}={value}")])
    apt.update()
    return apt


def own_release() -> str:
    """The code name of the release this machine runs ("bookworm"). Raises LabError if it is not Debian."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian" or "VERSION_CODENAME" not in release:
        raise LabError(f"this is not a release of Debian: {release.get('PRETTY_NAME', 'unknown')}")
    return release["VERSION_CODENAME"]


def own_sources() -> list[Path]:
    """The files of this machine's apt that name a Debian mirror."""
    files = [SOURCES / "sources.list", *sorted((SOURCES / "sources.list.d").glob("*"))]
    return [file for file in files if file.suffix in {".list", ".sources"} and file.is_file() and _mirrors(file)]


def _mirror() -> str:
    for file in own_sources():
        return _mirrors(file)[0]
    raise LabError("no Debian mirror in /etc/apt/sources.list or sources.list.d")


def _mirrors(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    named = [MIRROR.search(line) for line in lines if line.startswith(("deb ", "URIs:"))]
    return [found[1] for found in named if found]
