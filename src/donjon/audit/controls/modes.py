# SPDX-License-Identifier: Apache-2.0
"""What modes and owners of paths let whom do; shared by rules of several areas."""

from __future__ import annotations

from posixpath import dirname, join

from donjon.audit.bundle import PathInfo, Paths
from donjon.audit.fact import Fact, Known, Unknown

STICKY = 0o1000
_MOST_LINKS = 8


def ancestors(path: str) -> list[str]:
    """All directories above a path, nearest first, "/" last."""
    found = []
    while path not in {"/", ""}:
        path = dirname(path)
        found.append(path)
    return found


def followed(paths: Paths, info: PathInfo) -> Fact[PathInfo]:
    """What a link leads to, as far as it was looked at; all else itself."""
    for _ in range(_MOST_LINKS):
        if info.kind != "l":
            break
        target = paths.at(join(dirname(info.path), info.target))
        if not isinstance(target, Known):
            return Unknown(f"{info.path} is a link to {info.target}, where nobody looked")
        info = target.value
    return Known(info, info.path)


def others_get_there(paths: Paths, path: str) -> bool:
    """Whether no directory above keeps others out. One that was not seen keeps nobody out."""
    seen = [info.value for one in ancestors(path) if isinstance(info := paths.at(one), Known)]
    return all(info.others & 1 for info in seen if info.kind == "d")


def others_read(paths: Paths, info: PathInfo) -> bool:
    """Whether everybody on the host can read it."""
    return bool(info.others & 4) and others_get_there(paths, info.path)


def others_write(paths: Paths, info: PathInfo) -> bool:
    """Whether everybody on the host can write to it, or connect to it if it is a socket."""
    return bool(info.others & 2) and others_get_there(paths, info.path)


def not_roots_alone(info: PathInfo) -> str:
    """Why somebody but root can change it; "" if nobody can. Links have no mode."""
    if info.kind == "l":
        return ""
    if info.uid != 0:
        return f"it belongs to {info.user or info.uid}"
    if info.others & 2 and not info.mode & STICKY:
        return "everybody can write to it"
    if info.mode & 0o020 and info.gid != 0 and not info.mode & STICKY:
        return f"group {info.group or info.gid} can write to it"
    return ""
