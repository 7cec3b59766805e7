# SPDX-License-Identifier: Apache-2.0
"""Single files of a restore point: listed, found, brought back."""

from __future__ import annotations

import fnmatch
import itertools
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

from cyclopts import Parameter

from donjon.cli.commands.files_options import KEYS, Keys, Spec, read_passphrases
from donjon.cli.commands.files_result import (
    Archived,
    Fetched,
    FileList,
    describe_entry,
    describe_problem,
    describe_volume,
)
from donjon.cli.commands.points import find_point
from donjon.cli.options import COMMON, Common, Given, NoLock
from donjon.cli.result import describe_point
from donjon.cli.session import Session
from donjon.cli.text import count
from donjon.errors import ConfigError, HostError, IncompleteError, RefusedError
from donjon.guest_files.content import files_of, whole
from donjon.guest_files.folder import Folder
from donjon.guest_files.guest import EVERYTHING, Disk, GuestFiles, guest_files
from donjon.guest_files.messages import Entry, Problem
from donjon.guest_files.places import Place, find_place, split_place
from donjon.guest_files.tar import write_tar
from donjon.images.new_file import new_file
from donjon.model.restore_point import RestorePoint
from donjon.repository.reader import BlobCache, Image
from donjon.repository.repository import Repository
from donjon.restore_points import load_disk, load_manifest


@dataclass(frozen=True, slots=True)
class _Opened:
    point: RestorePoint
    guest: GuestFiles
    path: str
    place: Place | None

    def required(self) -> Place:
        """The place. Raises ConfigError if no volume is named."""
        if self.place is None:
            known = ", ".join(f"/{volume.name}" for volume in self.guest.volumes if volume.readable) or "none"
            raise ConfigError("cannot tell which files are meant: no path is named", hint=f"volumes: {known}")
        return self.place

    def walk(self, *, depth: int = EVERYTHING, full: bool = False) -> Iterator[tuple[Entry, Iterator[bytes]] | Problem]:
        place = self.required()
        return files_of(self.guest.walk(place.volume, place.path, depth=depth, full=full))


@contextmanager
def _opened(session: Session, spec: str, keys: Keys, *, no_lock: bool) -> Iterator[_Opened]:
    passphrases = read_passphrases(keys, session.warn)
    name, path = split_place(spec)
    with session.reading(no_lock=no_lock) as repository, ExitStack() as held:
        point = find_point(session.restore_points(repository), name)
        disks = open_disks(repository, point, held)
        guest = held.enter_context(guest_files(disks, passphrases))
        for volume in guest.volumes:
            if volume.note:
                session.tell(f"{volume.name}: {volume.note}")
        try:
            yield _Opened(point, guest, path, find_place(guest, path))
        except FileNotFoundError as error:
            raise ConfigError(f"cannot find {path} in {point.vm_name}") from error


def open_disks(repository: Repository, point: RestorePoint, held: ExitStack) -> list[tuple[str, Disk]]:
    """The disks of a restore point by name, open until `held` is left. Raises IntegrityError."""
    cache = BlobCache(repository)
    disks: list[tuple[str, Disk]] = []
    for disk in load_manifest(repository, point).disks:
        block_map = load_disk(repository, point, disk)
        held.callback(block_map.close)
        disks.append((disk.target, held.enter_context(Image(repository, block_map, cache))))
    return disks


def ls(
    spec: Spec,
    /,
    *,
    keys: Keys = KEYS,
    no_lock: NoLock = False,
    common: Common = COMMON,
    program: Given,
) -> FileList:
    """List a guest's volumes, or a directory of it, as in a restore point.

    Nothing is mounted, nothing of it is run: the disks are read from the repository by a process that may do nothing
    else.

    Examples:
        donjon files ls web01:

        donjon files ls web01@2026-11-22:/etc

        donjon files ls web01:/vda1/boot --json
    """
    session = Session(common, program)
    with _opened(session, spec, keys, no_lock=no_lock) as opened:
        if opened.place is None:
            volumes = tuple(map(describe_volume, opened.guest.volumes))
            return FileList(describe_point(opened.point), volumes=volumes)
        found = list(opened.walk(depth=1))
    is_directory = len(found) > 1 or (isinstance(found[0], tuple) and stat.S_ISDIR(found[0][0].mode))
    return _listed(opened, found[1:] if is_directory else found)


def find(
    spec: Spec,
    /,
    *,
    name: Annotated[str, Parameter(metavar="PATTERN", help="Whose name is like this: *.conf, access.log*.")] = "*",
    keys: Keys = KEYS,
    no_lock: NoLock = False,
    common: Common = COMMON,
    program: Given,
) -> FileList:
    """List all that is below a directory of a guest.

    Examples:
        donjon files find web01:/vda1 --name 'sshd_config*'
    """
    session = Session(common, program)
    with _opened(session, spec, keys, no_lock=no_lock) as opened:
        found = [
            item
            for item in opened.walk()
            if isinstance(item, Problem) or fnmatch.fnmatchcase(item[0].path[-1] if item[0].path else "/", name)
        ]
    return _listed(opened, found)


def get(
    spec: Spec,
    /,
    *,
    to: Annotated[Path, Parameter(metavar="DIR", help="Directory it is put into, under its own name.")] = Path(),
    output: Annotated[
        str | None,
        Parameter(name=["--output", "-o"], metavar="-", allow_leading_hyphen=True, help="Print one file's content."),
    ] = None,
    force: Annotated[bool, Parameter(help="Replace files that exist, add to directories that exist.")] = False,
    devices: Annotated[bool, Parameter(help="Make device nodes too.")] = False,
    keys: Keys = KEYS,
    no_lock: NoLock = False,
    common: Common = COMMON,
    program: Given,
) -> Fetched | None:
    """Bring a file or a directory of a guest back into a directory of this host.

    Owners are kept if donjon runs as root; modes, times, extended attributes, links and holes always are.

    Examples:
        donjon files get web01:/etc/nginx --to /tmp/web01

        donjon files get web01@2026-11-22:/vg0/root/etc/fstab -o -
    """
    if output not in {None, "-"}:
        raise ConfigError(f"cannot write to {output}: -o takes - only", hint="say --to DIRECTORY")
    session = Session(common, program)
    with _opened(session, spec, keys, no_lock=no_lock) as opened:
        if output:
            _print(opened)
            return None
        name, found = _named(opened)
        written = Folder(to, name, force=force, devices=devices).write(found)
    for note in written.notes:
        session.tell(note)
    problems = tuple(map(describe_problem, written.problems))
    return Fetched(describe_point(opened.point), str(to / name), written.files, written.size, problems)


def tar(
    spec: Spec,
    /,
    *,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], metavar="FILE", help="A new file, instead of standard output.")
    ] = None,
    keys: Keys = KEYS,
    no_lock: NoLock = False,
    common: Common = COMMON,
    program: Given,
) -> Archived | None:
    """Write a file or a directory of a guest as a tar archive, with all that belongs to the files.

    Examples:
        donjon files tar web01:/var/www | tar -C /srv/web --xattrs --xattrs-include='*' -xp

        donjon files tar web01:/vda1 -o web01-root.tar
    """
    if output is None and (sys.stdout.isatty() or common.json):
        raise RefusedError("cannot write an archive to a terminal", hint="say -o FILE, or send it on with | or >")
    session = Session(common, program)
    with _opened(session, spec, keys, no_lock=no_lock) as opened:
        if output is None:
            problems = _archive(opened, sys.stdout.buffer)[1]
            for problem in problems:
                session.warn(describe_problem(problem).sentence)
            if problems:
                raise IncompleteError(
                    f"cannot archive all of {spec}: {count(len(problems), 'thing')} could not be read, told above"
                )
            return None
        with new_file(output, exist_ok=False) as unfinished, unfinished.open("wb") as file:
            kept, problems = _archive(opened, file)
    described = tuple(map(describe_problem, problems))
    return Archived(describe_point(opened.point), str(output), kept, described)


def _named(opened: _Opened) -> tuple[str, Iterator[tuple[Entry, Iterator[bytes]] | Problem]]:
    """All that is at a place, and the name of the topmost, whatever links and dots led there."""
    found = opened.walk(full=True)
    first = list(itertools.islice(found, 1))
    path = next((item[0].path for item in first if not isinstance(item, Problem)), [])
    return path[-1] if path else opened.required().volume.replace("/", "-"), itertools.chain(first, found)


def _archive(opened: _Opened, file: BinaryIO) -> tuple[int, list[Problem]]:
    kept: list[int] = []
    try:
        problems = write_tar(opened.walk(full=True), file.write, kept=lambda _: kept.append(1))
        file.flush()
    except OSError as error:
        raise HostError(f"cannot write the archive: {error.strerror}") from error
    return len(kept), problems


def _print(opened: _Opened) -> None:
    for found in opened.walk(depth=0, full=True):
        if isinstance(found, Problem):
            raise HostError(f"cannot read {opened.path}: {found.reason}")
        entry, content = found
        if entry.ranges is None or entry.unreadable:
            raise ConfigError(f"cannot print {opened.path}: {entry.unreadable or 'it is no regular file'}")
        for part in whole(entry, content):
            sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def _listed(opened: _Opened, found: list[tuple[Entry, Iterator[bytes]] | Problem]) -> FileList:
    place = opened.required()
    files = [describe_entry(place.volume, item[0]) for item in found if not isinstance(item, Problem)]
    return FileList(
        describe_point(opened.point),
        files=tuple(sorted(files, key=lambda file: file.path)),
        problems=tuple(describe_problem(item) for item in found if isinstance(item, Problem)),
    )
