# SPDX-License-Identifier: Apache-2.0
"""LVM2: logical volumes that are linear or striped, over any number of physical volumes.

libvslvm was tried: it fails on volume groups of several physical volumes, and on every one that has a striped volume.

Source: lvm2, lib/format_text/layout.h, lib/label/label.h; the text of `vgcfgbackup`, lvm.conf(5).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from donjon.errors import HostError, IntegrityError
from donjon.guest_files.disk import Source

CONTENT = "LVM physical volume"
_SECTOR = 512
_MOST_TEXT = 8 << 20
_DEEPEST = 16
_MAGIC = b" LVM2 x[5A%r0N*>"
_TOKEN = re.compile(r'\s+|#[^\n]*|("(?:[^"\\]|\\.)*")|([\w.+@/-]+)|([{}\[\]=,])')


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """A source, by the id it has in its volume group, and the text that describes the group."""

    id: str
    text: str
    source: Source


@dataclass(frozen=True, slots=True)
class _Segment:
    start: int
    size: int
    stripe: int
    stripes: tuple[tuple[Source, int], ...]


class LogicalVolume:
    """A logical volume as a source."""

    def __init__(self, segments: list[_Segment]) -> None:
        self._segments = sorted(segments, key=lambda segment: segment.start)
        self.size = 0
        for segment in self._segments:
            if segment.start != self.size or segment.size <= 0:
                raise IntegrityError("cannot read a logical volume: its segments do not fit together")
            self.size += segment.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on; fewer only at the end."""
        end = min(offset + length, self.size)
        parts = []
        for segment in self._segments:
            stop = min(end, segment.start + segment.size)
            while segment.start <= offset < stop:
                part = _read_segment(segment, offset - segment.start, stop - offset)
                parts.append(part)
                offset += len(part)
        return b"".join(parts)


def recognises(source: Source) -> bool:
    """Whether this is a physical volume."""
    return _label(source) is not None


def read_physical_volume(source: Source) -> PhysicalVolume | None:
    """What a physical volume says; None if it is in no volume group, or has no copy of the text. IntegrityError."""
    label = _label(source)
    if label is None:
        raise IntegrityError("cannot read a physical volume: it has no label")
    at = label + struct.unpack("<I", source.read_at(label + 20, 4))[0]
    raw = source.read_at(at, 512)
    if len(raw) < 512:
        raise IntegrityError("cannot read a physical volume: its header is cut short")
    data_areas = list(_areas(raw, 40))
    metadata = list(_areas(raw, 40 + 16 * (len(data_areas) + 1)))
    texts = [text for offset, _ in metadata if (text := _text(source, offset))]
    return PhysicalVolume(raw[:32].decode("ascii", "replace"), texts[0], source) if texts else None


def group_name_and_id(text: str) -> tuple[str, str]:
    """Of the volume group that a text describes. Raises IntegrityError."""
    name, group = _group(text)
    return name, str(group.get("id")).replace("-", "")


def logical_volumes(volumes: list[PhysicalVolume]) -> Iterator[tuple[str, LogicalVolume | str]]:
    """The visible logical volumes of one group by name; a text instead of those that cannot be read says why.

    Raises:
        IntegrityError: the group's description is damaged.
    """
    newest = max((volume.text for volume in volumes), key=_sequence_number)
    _, group = _group(newest)
    by_id = {volume.id: volume.source for volume in volumes}
    extent = _number(group, "extent_size") * _SECTOR
    places = {}
    for name, physical in _sections(_section(group, "physical_volumes")):
        known = by_id.get(str(physical.get("id")).replace("-", ""))
        places[name] = (known, _number(physical, "pe_start") * _SECTOR)
    for name, logical in _sections(_section(group, "logical_volumes") if "logical_volumes" in group else {}):
        if "VISIBLE" not in logical.get("status", ()):
            continue
        try:
            yield name, LogicalVolume([_segment(part, extent, places) for _, part in _sections(logical)])
        except HostError as error:
            yield name, str(error)


def _segment(part: Mapping[str, Any], extent: int, places: Mapping[str, tuple[Source | None, int]]) -> _Segment:
    kind = part.get("type")
    if kind != "striped":
        raise HostError(f"logical volumes of type {kind} cannot be read, only linear and striped ones")
    listed = part.get("stripes")
    if not isinstance(listed, list) or not listed or len(listed) % 2:
        raise IntegrityError("cannot read a logical volume: a segment has no stripes")
    stripes = []
    for name, first in zip(listed[::2], listed[1::2], strict=True):
        source, start = places.get(str(name), (None, 0))
        if source is None:
            raise HostError(f"its physical volume {name} is not in the restore point")
        stripes.append((source, start + int(first) * extent))
    stripe = _number(part, "stripe_size") * _SECTOR if len(stripes) > 1 else 0
    if len(stripes) > 1 and stripe <= 0:
        raise IntegrityError("cannot read a logical volume: its stripes have no size")
    size = _number(part, "extent_count") * extent
    return _Segment(_number(part, "start_extent") * extent, size, stripe, tuple(stripes))


def _read_segment(segment: _Segment, offset: int, length: int) -> bytes:
    """Some bytes from `offset` on, at least one."""
    source, start = segment.stripes[0]
    if segment.stripe:
        number, within = divmod(offset, segment.stripe)
        row, column = divmod(number, len(segment.stripes))
        source, start = segment.stripes[column]
        offset = row * segment.stripe + within
        length = min(length, segment.stripe - within)
    part = source.read_at(start + offset, length)
    if not part:
        raise IntegrityError("cannot read a logical volume: it goes beyond its disk")
    return part


def _label(source: Source) -> int | None:
    head = source.read_at(0, 4 * _SECTOR)
    for at in range(0, len(head), _SECTOR):
        if head[at : at + 8] == b"LABELONE" and head[at + 24 : at + 32] == b"LVM2 001":
            return at
    return None


def _areas(raw: bytes, at: int) -> Iterator[tuple[int, int]]:
    while at + 16 <= len(raw):
        offset, size = struct.unpack_from("<QQ", raw, at)
        if not offset:
            return
        yield offset, size
        at += 16


def _text(source: Source, area: int) -> str | None:
    header = source.read_at(area, _SECTOR)
    if len(header) < _SECTOR or header[4:20] != _MAGIC:
        raise IntegrityError("cannot read a physical volume: its metadata area is damaged")
    area_size, offset, size = struct.unpack_from("<QQQ", header, 32)
    if not offset:
        return None
    if size > min(_MOST_TEXT, area_size) or offset >= area_size:
        raise IntegrityError("cannot read a physical volume: its metadata area is damaged")
    first = source.read_at(area + offset, min(size, area_size - offset))
    rest = source.read_at(area + _SECTOR, size - len(first))  # the area is a ring behind its header
    return (first + rest).rstrip(b"\0").decode("utf-8", "replace")


def _sequence_number(text: str) -> int:
    return _number(_group(text)[1], "seqno")


def _group(text: str) -> tuple[str, Mapping[str, Any]]:
    parsed, _ = _parse([m.group() for m in _TOKEN.finditer(text) if m.lastindex], 0, 0)
    found = next(iter(_sections(parsed)), None)
    if found is None:
        raise IntegrityError("cannot read a volume group: its description is damaged")
    return found


def _parse(tokens: list[str], at: int, depth: int) -> tuple[dict[str, Any], int]:
    """A section's content, and where it ends."""
    section: dict[str, Any] = {}
    if depth > _DEEPEST:
        raise IntegrityError("cannot read a volume group: its description is damaged")
    while at < len(tokens) and tokens[at] != "}":
        name, sign = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        if sign == "{":
            section[name], at = _parse(tokens, at + 2, depth + 1)
        elif sign == "=":
            section[name], at = _value(tokens, at + 2)
        else:
            raise IntegrityError("cannot read a volume group: its description is damaged")
    return section, at + 1


def _value(tokens: list[str], at: int) -> tuple[Any, int]:
    if at < len(tokens) and tokens[at] == "[":
        end = next((i for i in range(at, len(tokens)) if tokens[i] == "]"), len(tokens) - 1)
        return [_atom(word) for word in tokens[at + 1 : end] if word != ","], end + 1
    return (_atom(tokens[at]) if at < len(tokens) else None), at + 1


def _atom(word: str) -> str | int:
    if word.startswith('"'):
        return word[1:-1]
    return int(word) if word.isascii() and word.isdigit() else word


def _number(section: Mapping[str, Any], name: str) -> int:
    value = section.get(name)
    if not isinstance(value, int):
        raise IntegrityError(f"cannot read a volume group: its description has no {name}")
    return value


def _section(section: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = section.get(name)
    if not isinstance(value, dict):
        raise IntegrityError(f"cannot read a volume group: its description has no {name}")
    return value


def _sections(section: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield name, value
