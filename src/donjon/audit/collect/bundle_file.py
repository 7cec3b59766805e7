# SPDX-License-Identifier: Apache-2.0
"""Bundles as files: the tar that the collector prints (head.sh says what is in it), which may be hostile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from donjon.audit.bundle import NOT_FOUND, TIMED_OUT, Bundle, Manifest, Output, PathInfo, Paths
from donjon.audit.collect.tar_members import Limits, as_text, members
from donjon.errors import ConfigError, DonjonError, IntegrityError

LIMITS = Limits()
_MEMBER = re.compile(
    r"manifest\.json|asked|refused|end|cmd/[a-z0-9-]+\.(?:out|err|rc)|look/[0-9]+\.[a-z]+|root/.+", re.S
)
_COMPLAINT = re.compile(r"(?:find|stat): ['`‘]?(/.*?)['’]?: ([^:]+)")
_REASONS = {b"%d" % TIMED_OUT: "timed out", b"%d" % NOT_FOUND: "neither find nor stat can tell"}
_MISSING = {"No such file or directory", "Not a directory"}
_KINDS = {0o14: "s", 0o12: "l", 0o10: "f", 0o06: "b", 0o04: "d", 0o02: "c", 0o01: "p"}
_Files = dict[str, bytes]


def read_bundle(source: Path | BinaryIO) -> Bundle:
    """The bundle of a file that a collector wrote; plain tar, or compressed with gzip, xz or zstd.

    Raises:
        ConfigError: there is no such file.
        IntegrityError: it is no bundle, cut short, or too large.
    """
    if not isinstance(source, Path):
        return _bundle(_files(source))
    try:
        with source.open("rb") as file:
            return _bundle(_files(file))
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {error.strerror}") from error
    except IntegrityError as error:
        hint = "collect it again; a file that is no bundle of donjon's may be a sosreport"
        raise IntegrityError(f"cannot use {source} as a bundle: {_reason(error)}", hint=hint) from error


def _files(file: BinaryIO) -> _Files:
    """The members by name; none twice, none but those a bundle has."""
    found: _Files = {}
    for member in members(file, LIMITS):
        name = member.name.rstrip("/")
        if member.kind == "5":
            continue
        if member.kind != "0":
            raise IntegrityError(f"cannot read the bundle: {name!r} is no regular file")
        if not _MEMBER.fullmatch(name) or {"", ".", ".."} & set(name.split("/")):
            raise IntegrityError(f"cannot read the bundle: {name!r} has no place in it")
        if name in found:
            raise IntegrityError(f"cannot read the bundle: {name!r} is there twice")
        found[name] = member.content
    if not {"manifest.json", "end", "asked", "refused"} <= found.keys():
        raise IntegrityError("cannot read the bundle: it is cut short, or was not made by a collector")
    return found


def _bundle(found: _Files) -> Bundle:
    try:
        manifest = msgspec.json.decode(as_text(found["manifest.json"]), type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise IntegrityError(f"cannot read the bundle: its manifest.json is wrong: {error}") from error
    words = _words(found["refused"])
    return Bundle(
        manifest,
        {probe: _output(found, probe) for probe in manifest.probes},
        {name.removeprefix("root"): as_text(text) for name, text in found.items() if name.startswith("root/")},
        frozenset(_words(found["asked"])),
        dict(zip(words[::2], words[1::2], strict=False)),
        _paths(found),
    )


def _output(found: _Files, probe: str) -> Output:
    """What a probe said; one without an exit code or output was not brought whole."""
    rc = found.get(f"cmd/{probe}.rc", b"").strip()
    out, err = found.get(f"cmd/{probe}.out"), found.get(f"cmd/{probe}.err", b"")
    if not rc.isdigit() or len(rc) > 3 or (out is None and int(rc) != NOT_FOUND):
        return Output(TIMED_OUT, "", as_text(err))
    return Output(int(rc), as_text(out or b""), as_text(err))


def _words(text: bytes) -> list[str]:
    return [as_text(word) for word in text.split(b"\0")[:-1]]


class _Look(Struct):
    """One look: how deep, at what, and what came of it."""

    depth: int
    roots: list[str]
    found: bytes
    errors: str
    rc: bytes
    how: bytes


def _looks(found: _Files) -> Iterator[_Look]:
    for name in found:
        if not name.endswith(".asked"):
            continue
        place = name.removesuffix(".asked")
        words = _words(found[name])
        if words and words[0].isdigit() and len(words[0]) < 3:
            rest = [found.get(f"{place}.{part}", b"") for part in ("found", "err", "rc", "how")]
            roots = [root.rstrip("/") or "/" for root in words[1:]]
            yield _Look(int(words[0]), roots, rest[0], as_text(rest[1]), rest[2].strip(), rest[3].strip())


def _paths(found: _Files) -> Paths:
    seen: dict[str, PathInfo] = {}
    looked: dict[str, int] = {}
    refused: dict[str, str] = {}
    for look in _looks(found):
        complaints = _complaints(look)
        if complaints is None:
            reason = _REASONS.get(look.rc, "looking failed")
            refused.update((root, reason) for root in look.roots)
            continue
        infos = _found_by_find(look.found) if look.how == b"find" else _found_by_stat(look.found)
        seen.update((info.path, info) for info in infos)
        for root in look.roots:
            looked[root] = max(look.depth, looked.get(root, 0))
        for path, reason in complaints.items():
            refused[path] = refused[f"{path}/"] = reason  # what is below it could not be seen either
    return Paths(seen, looked, refused)


def _complaints(look: _Look) -> dict[str, str] | None:
    """What find could not see, and why; None if it does not say so of all that went wrong."""
    lines = [_COMPLAINT.fullmatch(line) for line in look.errors.splitlines()]
    understood = [line.groups() for line in lines if line]
    explained = look.rc == b"1" and understood and len(understood) == len(lines)
    if look.rc != b"0" and not explained:
        return None
    return {path.rstrip("/") or "/": reason for path, reason in understood if reason not in _MISSING}


def _found_by_find(raw: bytes) -> Iterator[PathInfo]:
    """Triples ended by NUL: "KIND MODE UID GID USER GROUP SIZE MTIME", path, target of a link."""
    words = _words(raw)
    for facts, path, target in zip(words[::3], words[1::3], words[2::3], strict=False):
        parts = facts.split(" ")
        if len(parts) == 8:
            kind, mode, uid, gid, user, group, size, mtime = parts
            info = _info(path, int(mode, 8) if mode.isdigit() else -1, uid, gid, user, group, size, mtime)
            if info:
                yield msgspec.structs.replace(info, kind=kind[:1], target=target)


def _found_by_stat(raw: bytes) -> Iterator[PathInfo]:
    """Lines "RAWMODE UID GID USER GROUP SIZE MTIME PATH"; an empty one; then paths and targets of links."""
    lines, _, links = as_text(raw).partition("\n\n")
    pairs = links.split("\n")
    targets = dict(zip(pairs[::2], pairs[1::2], strict=False))
    for line in lines.split("\n"):
        parts = line.split(" ", 7)
        if len(parts) == 8 and re.fullmatch(r"[0-9a-f]{1,8}", parts[0]):
            mode, (uid, gid, user, group, size, mtime, path) = int(parts[0], 16), parts[1:]
            info = _info(path, mode & 0o7777, uid, gid, user, group, size, mtime)
            if info:
                yield msgspec.structs.replace(info, kind=_KINDS.get(mode >> 12, "?"), target=targets.get(path, ""))


def _info(path: str, mode: int, uid: str, gid: str, user: str, group: str, size: str, mtime: str) -> PathInfo | None:
    numbers = (uid, gid, size, mtime.partition(".")[0].lstrip("-"))
    if mode < 0 or not path.startswith("/") or not all(re.fullmatch(r"[0-9]{1,18}", number) for number in numbers):
        return None
    return PathInfo(path, mode, int(uid), int(gid), user, group, size=int(size), mtime=int(numbers[3]))


def _reason(error: DonjonError) -> str:
    return str(error).partition(": ")[2] or str(error)
