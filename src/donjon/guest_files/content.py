# SPDX-License-Identifier: Apache-2.0
"""Entries with their content, out of the one stream in which the reader tells of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from donjon.errors import IntegrityError
from donjon.guest_files.messages import Broken, Content, Entry, Problem

Found = Entry | Content | Broken | Problem
_PIECE = 1 << 20


def files_of(found: Iterator[Found]) -> Iterator[tuple[Entry, Iterator[bytes]] | Problem]:
    """What `GuestFiles.walk` finds, each entry with its content: the bytes of its ranges, to be read before the next.

    The content ends in a CutShortError if the rest cannot be read.
    """
    waiting = next(found, None)
    while waiting is not None:
        if isinstance(waiting, Problem):
            yield waiting
            waiting = next(found, None)
            continue
        if not isinstance(waiting, Entry):
            raise nonsense()
        content = _Content(waiting, found)
        yield waiting, content
        waiting = content.rest()


class CutShortError(IntegrityError):
    """The rest of one file cannot be read; what comes behind it can."""


class _Content:
    """The content of one entry, out of all that is found."""

    def __init__(self, entry: Entry, found: Iterator[Found]) -> None:
        self._entry = entry
        self._found = found
        self._next: Found | None = None
        self._left = 0 if entry.unreadable else sum(length for _, length in entry.ranges or ())

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._left:
            raise StopIteration
        message = next(self._found, None)
        if isinstance(message, Content):
            self._left -= len(message.data)
            return message.data
        self._left = 0
        reason = "its content is cut short"
        if isinstance(message, Broken):
            reason = message.reason
        else:
            self._next = message
        raise CutShortError(f"cannot read {'/'.join(self._entry.path)}: {reason}")

    def rest(self) -> Found | None:
        """What is found behind it; what was not read of it is passed by."""
        message = self._next or next(self._found, None)
        while isinstance(message, Content | Broken):
            message = next(self._found, None)
        return message


def cut(content: Iterator[bytes], sizes: Iterable[int]) -> Iterator[Iterator[bytes]]:
    """A stream of bytes as one stream for each size. Raises CutShortError: it ends too soon."""
    rest = b""

    def take(left: int) -> Iterator[bytes]:
        nonlocal rest
        while left:
            part = rest or next(content, b"")
            if not part:
                raise CutShortError("its content is cut short")
            part, rest = part[:left], part[left:]
            left -= len(part)
            yield part

    return map(take, sizes)


def whole(entry: Entry, content: Iterator[bytes]) -> Iterator[bytes]:
    """A file's content with zeros where it has holes. Raises CutShortError: it ends too soon."""
    at = 0
    ranges = entry.ranges or ()
    for (offset, length), parts in zip(ranges, cut(content, [length for _, length in ranges]), strict=True):
        yield from _zeros(offset - at)
        yield from parts
        at = offset + length
    yield from _zeros(entry.size - at)


def _zeros(length: int) -> Iterator[bytes]:
    for at in range(0, length, _PIECE):
        yield bytes(min(_PIECE, length - at))


def nonsense() -> IntegrityError:
    """For when the reader has fallen to what it read."""
    return IntegrityError("cannot read the guest's files: the reader says what cannot be")
