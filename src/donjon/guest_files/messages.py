# SPDX-License-Identifier: Apache-2.0
"""What donjon and its sandboxed reader of guests' file systems say to each other, and how, over two pipes."""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from donjon.errors import HostError, IntegrityError

LARGEST = 16 << 20
MOST_RANGES = 100_000
Heard = TypeVar("Heard")


class Open(msgspec.Struct, tag=True, frozen=True):
    """To the reader, first: the disks, by name and size in bytes, and what may unlock encrypted volumes."""

    disks: list[tuple[str, int]]
    passphrases: list[str]


class Walk(msgspec.Struct, tag=True, frozen=True):
    """To the reader: describe what is at `path` in a volume, and `depth` levels below it, parents first.

    `full`: with extended attributes, and each file's content after its entry.
    """

    volume: str
    path: list[str]
    depth: int
    full: bool


class Bytes(msgspec.Struct, tag=True, frozen=True):
    """To the reader: what it asked for with `Read`."""

    data: bytes


class Damaged(msgspec.Struct, tag=True, frozen=True):
    """To the reader: the bytes that it asked for with `Read` are lost."""

    reason: str


class Read(msgspec.Struct, tag=True, frozen=True):
    """From the reader: bytes of a disk, please."""

    disk: int
    offset: int
    length: int


class Volume(msgspec.Struct, tag=True, frozen=True):
    """From the reader: a volume it found; files can be read from it if it is `readable`.

    `unreadable` says why that is not so where it should be, `note` what to know.
    """

    name: str
    content: str
    size: int
    label: str = ""
    readable: bool = False
    unreadable: str = ""
    note: str = ""


class Entry(msgspec.Struct, tag=True, frozen=True):
    """From the reader: a file, directory, link or device.

    `path` from the volume's root; `mode` as in stat(2); `target` of a symbolic link; `device` its numbers.
    `ranges`: where a file has data, as (offset, length) in bytes, ascending, zero elsewhere; None without `full`.
    `lacks`: what could not be read of it. `unreadable`: why its content cannot be read; none follows then.
    """

    path: list[str]
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    inode: int
    links: int
    target: str = ""
    device: tuple[int, int] | None = None
    xattrs: dict[str, bytes] = {}
    ranges: list[tuple[int, int]] | None = None
    lacks: list[str] = []
    unreadable: str = ""


class Content(msgspec.Struct, tag=True, frozen=True):
    """From the reader: the next bytes of the file last described; its ranges, one after the other."""

    data: bytes


class Broken(msgspec.Struct, tag=True, frozen=True):
    """From the reader: the rest of the file last described cannot be read."""

    reason: str


class Problem(msgspec.Struct, tag=True, frozen=True):
    """From the reader: something that should be there cannot be read at all."""

    path: list[str]
    reason: str


class Missing(msgspec.Struct, tag=True, frozen=True):
    """From the reader: there is nothing at that path."""


class Done(msgspec.Struct, tag=True, frozen=True):
    """From the reader: that was all."""


ToReader = Open | Walk | Bytes | Damaged
FromReader = Read | Volume | Entry | Content | Broken | Problem | Missing | Done


@dataclass(slots=True)
class Channel(Generic[Heard]):
    """Messages over two pipes. Whoever waits, waits at most `patience_s` seconds; None: for ever."""

    incoming: int
    outgoing: int
    decoder: msgspec.msgpack.Decoder[Heard]
    patience_s: float | None = None

    def send(self, message: msgspec.Struct) -> None:
        """Say something. Raises HostError: nobody listens any more."""
        body = msgspec.msgpack.encode(message)
        rest = memoryview(len(body).to_bytes(4, "big") + body)
        until = self._deadline()
        while rest:
            self._wait(self.outgoing, select.POLLOUT, until)
            try:
                rest = rest[os.write(self.outgoing, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise _gone() from error

    def receive(self, until: float | None = None) -> Heard:
        """The next message; waits until a moment of the monotonic clock, else as long as there is patience for.

        Raises:
            HostError: the other side is gone, or silent.
            IntegrityError: it talks nonsense.
        """
        until = self._deadline() if until is None else until
        length = int.from_bytes(self._exactly(4, until), "big")
        if length > LARGEST:
            raise IntegrityError("cannot read the guest's files: the reader's message is too long")
        try:
            return self.decoder.decode(self._exactly(length, until))
        except msgspec.DecodeError as error:
            raise IntegrityError("cannot read the guest's files: the reader talks nonsense") from error

    def _exactly(self, length: int, until: float | None) -> bytes:
        parts: list[bytes] = []
        while length:
            self._wait(self.incoming, select.POLLIN, until)
            part = os.read(self.incoming, min(length, 1 << 20))
            if not part:
                raise _gone()
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _deadline(self) -> float | None:
        return None if self.patience_s is None else time.monotonic() + self.patience_s

    def _wait(self, descriptor: int, event: int, until: float | None) -> None:
        if until is None:
            return
        poll = select.poll()
        poll.register(descriptor, event)
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise HostError(
                "cannot read the guest's files: the reader is stuck", hint="the file system is damaged, or a trap"
            )


def _gone() -> HostError:
    return HostError("cannot read the guest's files: the reader has died")
