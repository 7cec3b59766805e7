# SPDX-License-Identifier: Apache-2.0
"""A guest's files as a tar archive: times to the nanosecond, extended attributes, holes, hard links, devices.

Source: POSIX pax(1), "pax Extended Header"; GNU tar manual, "Storing Sparse Files" (format 1.0); star(1), SCHILY.xattr.
"""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator

from donjon.errors import IntegrityError
from donjon.guest_files.content import whole
from donjon.guest_files.messages import Entry, Problem

_BLOCK = 512
_LARGEST = 8**11 - 1
_LARGEST_ID = 8**7 - 1
_LARGEST_DEVICE = 8**7 - 1
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
Ranges = list[tuple[int, int]]


def write_tar(
    files: Iterable[tuple[Entry, Iterator[bytes]] | Problem],
    write: Callable[[bytes], object],
    *,
    kept: Callable[[Entry], None] = lambda _: None,
) -> list[Problem]:
    """Write an archive; returns what is not in it.

    Args:
        files: as from `files_of`.
        write: takes the archive's next bytes.
        kept: is told of each entry that is in it.

    Raises:
        IntegrityError: a file could be read in part only; the archive is worth nothing.
    """
    problems: list[Problem] = []
    first: dict[int, str] = {}
    names = _Names()
    for found in files:
        if isinstance(found, Problem):
            problems.append(found)
            continue
        entry, content = found
        problems += [Problem(entry.path, lack) for lack in entry.lacks]
        if entry.unreadable or stat.S_IFMT(entry.mode) not in _TYPES:
            problems.append(Problem(entry.path, entry.unreadable or "tar has nothing for sockets and the like"))
            continue
        if reason := names.refusal(entry):
            problems.append(Problem(entry.path, reason))
            continue
        name = "/".join(entry.path) or "."
        link = first.get(entry.inode) if entry.links > 1 and not stat.S_ISDIR(entry.mode) else None
        if link is None:
            first[entry.inode] = name
            _write_member(entry, name, content, write)
        else:
            _write_header(entry, name, {"linkpath": link.encode()}, write, kind=tarfile.LNKTYPE)
        kept(entry)
    write(bytes(2 * _BLOCK))
    return problems


class _Names:
    """Which names the directories being filled hold: a second entry could lead what follows it out by a link."""

    def __init__(self) -> None:
        self._levels: list[tuple[list[str], set[str]]] = []

    def refusal(self, entry: Entry) -> str:
        """Why an entry may not go into the archive, parents first; empty if it may."""
        above, name = entry.path[:-1], "".join(entry.path[-1:])
        if not self._levels:
            self._levels.append((above, set()))
        while len(self._levels) > 1 and above[: len(self._levels[-1][0])] != self._levels[-1][0]:
            self._levels.pop()
        directory, taken = self._levels[-1]
        if directory != above:
            return "its directory is not in the archive"
        if name in taken:
            return "something of that name is in the archive already"
        taken.add(name)
        if stat.S_ISDIR(entry.mode):
            self._levels.append((entry.path, set()))
        return ""


def _write_member(entry: Entry, name: str, content: Iterator[bytes], write: Callable[[bytes], object]) -> None:
    more: dict[str, bytes] = {f"SCHILY.xattr.{key}": value for key, value in entry.xattrs.items() if "=" not in key}
    if entry.target:
        more["linkpath"] = entry.target.encode("utf-8", "replace")
    ranges = entry.ranges or []
    length = sum(length for _, length in ranges)
    holes = b""
    if length < entry.size and stat.S_ISREG(entry.mode) and not _fits_blocks(ranges, entry.size):
        content, length = whole(entry, content), entry.size
    elif length < entry.size and stat.S_ISREG(entry.mode):
        holes = _sparse_map(ranges, entry.size)
        more |= {
            "GNU.sparse.major": b"1",
            "GNU.sparse.minor": b"0",
            "GNU.sparse.name": name.encode("utf-8", "replace"),
            "GNU.sparse.realsize": str(entry.size).encode(),
        }
        name = "/".join([*entry.path[:-1], "GNUSparseFile.0", entry.path[-1]])
    _write_header(entry, name, more, write, size=len(holes) + length)
    write(holes)
    written = 0
    for part in content:
        write(part)
        written += len(part)
    if written != length:
        raise IntegrityError(f"cannot read {name}: its content is cut short")
    write(bytes(-length % _BLOCK))


def _fits_blocks(ranges: Ranges, size: int) -> bool:
    """Whether holes can be told of: tar's data begins at a block wherever a hole ends."""
    return all(not offset % _BLOCK and (not length % _BLOCK or offset + length == size) for offset, length in ranges)


def _sparse_map(ranges: Ranges, size: int) -> bytes:
    """Where the data is, in lines of text, padded to blocks."""
    places = ranges if ranges and sum(ranges[-1]) == size else [*ranges, (size, 0)]
    numbers = [len(places), *(number for place in places for number in place)]
    text = "".join(f"{number}\n" for number in numbers).encode()
    return text + bytes(-len(text) % _BLOCK)


def _write_header(
    entry: Entry,
    name: str,
    more: dict[str, bytes],
    write: Callable[[bytes], object],
    *,
    kind: bytes | None = None,
    size: int = 0,
) -> None:
    seconds, nanoseconds = divmod(entry.mtime_ns, 10**9)
    records = {
        "path": name.encode("utf-8", "replace"),
        "mtime": _decimal(entry.mtime_ns).encode(),
        **more,
    }
    info = tarfile.TarInfo("donjon")
    info.type = kind or _TYPES[stat.S_IFMT(entry.mode)]
    info.mode = stat.S_IMODE(entry.mode)
    info.mtime = seconds if 0 <= seconds <= _LARGEST and not nanoseconds else 0
    for key, value, most in (
        ("uid", entry.uid, _LARGEST_ID),
        ("gid", entry.gid, _LARGEST_ID),
        ("size", size, _LARGEST),
    ):
        setattr(info, key, value if value <= most else 0)
        if value > most:
            records[key] = str(value).encode()
    if entry.device:
        info.devmajor, info.devminor = (min(number, _LARGEST_DEVICE) for number in entry.device)
    body = b"".join(_record(key, value) for key, value in records.items())
    extended = tarfile.TarInfo("././@PaxHeader")
    extended.type, extended.size = tarfile.XHDTYPE, len(body)
    write(extended.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % _BLOCK) + info.tobuf(tarfile.USTAR_FORMAT))


def _decimal(nanoseconds: int) -> str:
    """Seconds, to the nanosecond: -1.5 is "-1.500000000"."""
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), 10**9)
    return f"{sign}{seconds}.{rest:09}"


def _record(key: str, value: bytes) -> bytes:
    r"""A line of an extended header, "LENGTH KEY=VALUE\n", its length counting itself."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return str(length).encode() + rest
