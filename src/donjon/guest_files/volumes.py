# SPDX-License-Identifier: Apache-2.0
"""Finds the volumes on a guest's disks: partitions, LUKS and LVM in any order, file systems at the end.

Source: UEFI Specification 2.10, "GUID Partition Table"; mkswap(8); the superblocks of btrfs, md, bcache and ZFS.
"""

from __future__ import annotations

import itertools
import struct
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyvsgpt
import pyvsmbr

from donjon.errors import DonjonError
from donjon.guest_files.block_layers import luks, lvm
from donjon.guest_files.disk import File, Part, Source
from donjon.guest_files.file_systems import ext, fat, ntfs, xfs
from donjon.guest_files.file_systems.file_system import PARSER_ERRORS, FileSystem, why
from donjon.guest_files.messages import Volume

_READABLE: tuple[tuple[Any, Any], ...] = ((ext, ext.Ext), (xfs, xfs.Xfs), (ntfs, ntfs.Ntfs), (fat, fat.Fat))
_KNOWN = (
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "Linux software RAID"),
    (0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "bcache"),
    (4086, b"SWAPSPACE2", "swap"),
    (0x8001, b"CD001", "ISO 9660"),
    (3, b"-FVE-FS-", "BitLocker"),
    (3, b"ReFS", "ReFS"),
    (0, b"hsqs", "squashfs"),
    (1024, b"\x10\x20\xf5\xf2", "F2FS"),
)
_SIGNATURE = b"\x55\xaa"
_PROTECTIVE = 0xEE
_ENTRIES = range(446, 510, 16)
_DEEPEST = 6
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """A volume, and its file system if it can be read."""

    volume: Volume
    file_system: FileSystem | None = None


def find_volumes(disks: Iterable[tuple[str, Source]], passphrases: Sequence[str]) -> Iterator[Found]:
    """All volumes of some disks: what has a content of its own, readable or not."""
    finder = _Finder(passphrases)
    for name, source in disks:
        yield from finder.look(name, source, 0)
    yield from finder.groups()


class _Finder:
    def __init__(self, passphrases: Sequence[str]) -> None:
        self._passphrases = passphrases
        self._physical: defaultdict[tuple[str, str], list[lvm.PhysicalVolume]] = defaultdict(list)
        self._shared: set[str] = set()
        self._left = _MOST

    def look(self, name: str, source: Source, depth: int) -> Iterator[Found]:
        """What is in a source. Damage is told of in what is found."""
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            return
        try:
            yield from self._recognised(name, source, depth)
        except PARSER_ERRORS as error:
            yield Found(Volume(name, "unknown", source.size, unreadable=why(error)))

    def groups(self) -> Iterator[Found]:
        """What is in the logical volumes of the physical ones seen so far, and in what they hold."""
        while self._physical:
            (group, identity), volumes = self._physical.popitem()
            if any(other == group for other, _ in self._physical):
                self._shared.add(group)
            if group in self._shared:
                group = f"{group}.{identity[:6]}"
            try:
                for name, logical in lvm.logical_volumes(volumes):
                    if isinstance(logical, str):
                        yield Found(Volume(f"{group}/{name}", "LVM logical volume", 0, unreadable=logical))
                    else:
                        yield from self.look(f"{group}/{name}", logical, 1)
            except PARSER_ERRORS as error:
                yield Found(Volume(group, "LVM volume group", 0, unreadable=why(error)))

    def _recognised(self, name: str, source: Source, depth: int) -> Iterator[Found]:
        """What is in a source; on a disk with partitions these too: the rest may be of an earlier use."""
        partitions = list(_leftover(source)) if depth == 0 and _has_partitions(source) else []
        try:
            recognised = yield from self._content(name, source, depth)
        except PARSER_ERRORS as error:
            yield Found(Volume(name, "unknown", source.size, unreadable=why(error)))
            recognised = True
        if not recognised:
            partitions = list(_partitions(source))
            if not partitions:
                yield Found(Volume(name, "unknown", source.size, unreadable="nothing in it is known"))
        separator = "p" if name[-1:].isdigit() else ""
        for number, part in partitions:
            yield from self.look(f"{name}{separator}{number}", part, depth + 1)

    def _content(self, name: str, source: Source, depth: int) -> Generator[Found, None, bool]:
        """What fills a source; returns whether anything does."""
        if luks.recognises(source):
            yield from self._unlocked(name, source, depth)
        elif lvm.recognises(source):
            yield from self._collected(name, source)
        elif kind := next((kind for kind in _READABLE if kind[0].recognises(source)), None):
            yield _opened(name, source, kind[0].CONTENT, kind[1])
        elif (content := _known(source)) is not None:
            unreadable = "" if content in {"swap", "empty"} else f"{content} cannot be read by donjon files"
            yield Found(Volume(name, content, source.size, unreadable=unreadable))
        else:
            return False
        return True

    def _collected(self, name: str, source: Source) -> Iterator[Found]:
        physical = lvm.read_physical_volume(source)
        if physical is None:
            return
        group = self._physical[lvm.group_name_and_id(physical.text)]
        if any(other.id == physical.id for other in group):
            twice = "another physical volume has the same id"
            yield Found(Volume(name, lvm.CONTENT, source.size, unreadable=twice))
        else:
            group.append(physical)

    def _unlocked(self, name: str, source: Source, depth: int) -> Iterator[Found]:
        inner = luks.unlock(source, self._passphrases)
        if inner is not None:
            yield from self.look(name, inner, depth + 1)
        else:
            locked = "no passphrase given opens it" if self._passphrases else "it is locked"
            yield Found(Volume(name, luks.CONTENT, source.size, unreadable=locked))


def _opened(name: str, source: Source, content: str, kind: Any) -> Found:
    try:
        file_system = kind(source)
        file_system.root().attributes()
    except PARSER_ERRORS as error:
        return Found(Volume(name, content, source.size, unreadable=why(error)))
    volume = Volume(name, content, source.size, file_system.label, readable=True, note=file_system.note)
    return Found(volume, file_system)


def _known(source: Source) -> str | None:
    for offset, magic, content in _KNOWN:
        if source.read_at(offset, len(magic)) == magic:
            return content
    head = source.read_at(0, 64 << 10)
    return "empty" if not any(head) else None


def _has_partitions(source: Source) -> bool:
    """Whether a disk begins with a table of partitions, at least one of them within it, by all that can be told."""
    head = source.read_at(0, 512)
    boots = fat.recognises(source) or ntfs.recognises(source) or head[3:7] == b"ReFS" or head[3:11] == b"-FVE-FS-"
    if head[510:512] != _SIGNATURE or boots:
        return False
    entries = [struct.unpack_from("<B3xB3xII", head, at) for at in _ENTRIES]
    used = [entry for entry in entries if entry[1] and entry[3]]
    within = any(
        kind == _PROTECTIVE or 0 < first < first + count <= source.size // 512 for _, kind, first, count in used
    )
    return within and all(active in {0, 0x80} for active, *_ in used)


def _leftover(source: Source) -> Iterator[tuple[int, Source]]:
    """The partitions of a disk that may have none any more."""
    with suppress(*PARSER_ERRORS):
        yield from _partitions(source)


def _partitions(source: Source) -> Iterator[tuple[int, Source]]:
    """Partitions with their numbers; of a protective MBR those of the GPT."""
    head = source.read_at(0, 512)
    if head[510:512] != _SIGNATURE:
        return
    protective = any(head[at + 4] == _PROTECTIVE for at in _ENTRIES)
    gpt = protective and any(source.read_at(sector, 8) == b"EFI PART" for sector in (512, 4096))
    table: Any = pyvsgpt.volume() if gpt else pyvsmbr.volume()
    table.open_file_object(File(source))
    primary = {} if gpt else _primary(head)
    logical = itertools.count(5)
    for index in range(table.number_of_partitions):
        partition = table.get_partition(index)
        begin = partition.volume_offset
        number = partition.entry_index + 1 if gpt else primary.get(begin) or next(logical)
        part = Part(source, begin, partition.size)
        if not part.size or part.size == source.size:
            raise DonjonError("its table of partitions makes no sense")
        yield number, part


def _primary(head: bytes) -> dict[int, int]:
    """Numbers of the partitions of an MBR by where they begin, in bytes; the library does not tell."""
    starts = [int.from_bytes(head[at + 8 : at + 12], "little") for at in _ENTRIES]
    return {start * 512: number for number, start in enumerate(starts, 1) if start}
