# SPDX-License-Identifier: Apache-2.0
"""The files of a guest, as they are on its disks: asked of a sandboxed reader, to which only bytes of disks go."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol

import msgspec

from donjon.errors import HostError, IntegrityError
from donjon.guest_files.content import Found, nonsense
from donjon.guest_files.messages import (
    LARGEST,
    Broken,
    Bytes,
    Channel,
    Content,
    Damaged,
    Done,
    Entry,
    FromReader,
    Missing,
    Open,
    Problem,
    Read,
    Volume,
    Walk,
)
from donjon.host_command import Helper, conversing

PATIENCE_S = 120.0
EVERYTHING = 1 << 16


class Disk(Protocol):
    """What the guest's files are read from; repository.reader.Image is one."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on."""
        ...


class GuestFiles:
    """The volumes of some disks, and the files on them; made by `guest_files`."""

    def __init__(self, helper: Helper, channel: Channel[FromReader], disks: Sequence[Disk], patience_s: float) -> None:
        self._helper = helper
        self._channel = channel
        self._disks = disks
        self._patience_s = patience_s
        self._lost = ""
        self.volumes: tuple[Volume, ...] = ()

    def open(self, names: Sequence[str], passphrases: Sequence[str]) -> None:
        """Look for volumes. Raises as `walk`."""
        sizes = [(name, disk.size) for name, disk in zip(names, self._disks, strict=True)]
        found = self._ask(Open(sizes, list(passphrases)))
        self.volumes = tuple(message for message in found if isinstance(message, Volume))

    def walk(self, volume: str, path: Sequence[str], *, depth: int = EVERYTHING, full: bool = False) -> Iterator[Found]:
        """What is at a path in a volume and below it, parents first; to be used up.

        With `full` every file's entry has its extended attributes and is followed by its content: the bytes of its
        `ranges`, or `Broken`. What cannot be read, for a damaged
        block of the disk too, is told of as a `Problem`.

        Raises:
            FileNotFoundError: there is nothing.
            HostError: the reader died or is stuck: the file system is damaged, or a trap.
            IntegrityError: the reader says what no file system can say.
        """
        left, missing = 0, False
        for message in self._ask(Walk(volume, list(path), depth, full)):
            match message:
                case Entry():
                    _check_entry(message)
                    left = 0 if message.unreadable else sum(length for _, length in message.ranges or ())
                    yield message
                case Content(data):
                    left -= len(data)
                    if left < 0:
                        raise nonsense()
                    yield message
                case Broken() | Problem():
                    yield message
                case Missing():
                    missing = True
                case _:
                    raise nonsense()
        if missing:
            raise FileNotFoundError("/".join(path))

    def _ask(self, question: Open | Walk) -> Iterator[FromReader]:
        self._send(question)
        until = time.monotonic() + self._patience_s
        while True:
            message = self._receive(until)
            if isinstance(message, Read):
                self._send(self._bytes(message))
                continue
            if isinstance(message, Done):
                return
            yield self._explaining(message)
            self._lost = ""
            until = time.monotonic() + self._patience_s

    def _explaining(self, message: FromReader) -> FromReader:
        """The message, with the reason why bytes were lost instead of what the parsers make of it."""
        if self._lost and isinstance(message, Broken | Problem):
            return msgspec.structs.replace(message, reason=self._lost)
        if self._lost and isinstance(message, Volume) and message.unreadable:
            return msgspec.structs.replace(message, unreadable=self._lost)
        return message

    def _bytes(self, asked: Read) -> Bytes | Damaged:
        if not 0 <= asked.disk < len(self._disks) or asked.offset < 0 or not 0 <= asked.length <= LARGEST // 2:
            raise nonsense()
        try:
            return Bytes(self._disks[asked.disk].read(asked.offset, asked.length))
        except IntegrityError as error:
            self._lost = str(error)
            return Damaged(self._lost)

    def _send(self, message: msgspec.Struct) -> None:
        with self._explained():
            self._channel.send(message)

    def _receive(self, until: float) -> FromReader:
        with self._explained():
            return self._channel.receive(until)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Says of a reader that is gone why it is."""
        try:
            yield
        except HostError as error:
            if "died" in str(error):
                self._helper.finish(PATIENCE_S)
            raise


@contextmanager
def guest_files(
    disks: Sequence[tuple[str, Disk]], passphrases: Sequence[str] = (), *, patience_s: float = PATIENCE_S
) -> Iterator[GuestFiles]:
    """Open the file systems on a guest's disks, given by name; `passphrases` may unlock volumes.

    The parsers run in a process of their own, which may do nothing but ask for bytes and answer. It is given
    `patience_s` seconds for each thing it finds.

    Raises:
        HostError: the reader cannot be started, died or is stuck.
    """
    if find_spec("pyfsext") is None:
        raise HostError(
            "cannot read the guest's files: the libraries for it are not installed", hint="pip install 'donjon[files]'"
        )
    argv = [sys.executable, "-I", "-m", "donjon.guest_files.reader"]
    with conversing(argv) as (helper, into, out):
        os.set_blocking(into, False)
        channel = Channel(out, into, msgspec.msgpack.Decoder(FromReader), patience_s)
        guest = GuestFiles(helper, channel, [disk for _, disk in disks], patience_s)
        guest.open([name for name, _ in disks], passphrases)
        yield guest


def _check_entry(entry: Entry) -> None:
    """Nothing that the reader says is taken for granted: it may have fallen to what it read."""
    names_ok = all(name not in {"", ".", ".."} and not {"/", "\0"} & set(name) for name in entry.path)
    at = 0
    for offset, length in entry.ranges or ():
        if offset < at or length <= 0:
            raise nonsense()
        at = offset + length
    if not names_ok or at > entry.size or entry.size < 0 or "\0" in entry.target:
        raise nonsense()
    if entry.ranges is not None and not stat.S_ISREG(entry.mode):
        raise nonsense()
