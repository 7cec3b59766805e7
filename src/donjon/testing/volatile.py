# SPDX-License-Identifier: Apache-2.0
"""A system that forgets, when the power goes, what nobody has synced.

It works on a real directory and remembers what of it is not yet durable. `power_cut` writes down one of the states
that a disk may then be in. Source: fsync(2); Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014): what
was not synced may be lost in part and in any order, but one directory operation is done whole or not at all.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock


class PowerCutError(BaseException):
    """Raised by a call that the machine did not live to answer; not an Exception, so that nothing handles it."""


@dataclass(eq=False)
class _File:
    content: bytearray = field(default_factory=bytearray)
    synced: int = 0  # bytes at the front that are durable; files are only appended to


@dataclass(eq=False)
class _Directory:
    durable: dict[str, _Node] = field(default_factory=dict)
    current: dict[str, _Node] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)

    def change(self, change: _Change) -> None:
        _apply(change, self.current)
        self.pending.append(change)

    def sync(self) -> None:
        self.durable = dict(self.current)
        self.pending.clear()


_Node = _File | _Directory
_Change = dict[str, _Node | None]  # what names mean after one operation; None: nothing


def _apply(change: _Change, names: dict[str, _Node]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class VolatileSystem:
    """Makes the calls of a store's System on the directory `root`; what is there at first is durable. Thread-safe.

    Files are only appended to, and renamed within their directory, which is all that a store does.
    """

    close = staticmethod(os.close)
    pread = staticmethod(os.pread)
    chmod = staticmethod(os.chmod)
    stat = staticmethod(os.stat)
    listdir = staticmethod(os.listdir)

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tree = _durable_tree(root)
        self._open: dict[int, _Node] = {}
        self._lock = RLock()

    def open(self, path: Path, flags: int, mode: int, /) -> int:
        """Open a file, which may make it, or a directory."""
        with self._lock:
            descriptor = os.open(path, flags, mode)
            if flags & os.O_CREAT and path.name not in self._parent(path).current:
                self._parent(path).change({path.name: _File()})
            self._open[descriptor] = self._node(path)
            return descriptor

    def writev(self, descriptor: int, buffers: Sequence[memoryview], /) -> int:
        """Append to a file; not durable."""
        with self._lock:
            written = os.writev(descriptor, buffers)
            file = self._open[descriptor]
            assert isinstance(file, _File)
            file.content += b"".join(buffers)[:written]
            return written

    def fsync(self, descriptor: int, /) -> None:
        """Make the bytes of a file, or the names in a directory, durable."""
        with self._lock:
            node = self._open[descriptor]
            if isinstance(node, _File):
                node.synced = len(node.content)
            else:
                node.sync()

    def mkdir(self, path: Path, mode: int, /) -> None:
        """Make a directory; not durable."""
        with self._lock:
            path.mkdir(mode)
            self._parent(path).change({path.name: _Directory()})

    def link(self, path: Path, new: Path, /) -> None:
        """Give a file a second name; not durable."""
        with self._lock:
            os.link(path, new)
            self._parent(new).change({new.name: self._node(path)})

    def rename(self, path: Path, new: Path, /) -> None:
        """Give a file another name in its directory; not durable."""
        with self._lock:
            assert path.parent == new.parent
            path.rename(new)
            self._parent(path).change({path.name: None, new.name: self._node(path)})

    def unlink(self, path: Path, /) -> None:
        """Take a name from a file; not durable."""
        with self._lock:
            path.unlink()
            self._parent(path).change({path.name: None})

    def power_cut(self, seed: int, into: Path) -> None:
        """Make the directory `into` and in it what the disk may hold if the power went now.

        Each directory operation that was not synced is done or undone; of bytes that were not synced some may be
        missing, or zero. `seed` chooses; the system itself goes on as if nothing had been.
        """
        with self._lock:
            chance = random.Random(seed)  # noqa: S311  (chooses what is lost, protects nothing)
            _write_down(self._tree, into, chance, {})

    def _parent(self, path: Path) -> _Directory:
        parent = self._node(path.parent)
        assert isinstance(parent, _Directory)
        return parent

    def _node(self, path: Path) -> _Node:
        node: _Node = self._tree
        for name in path.relative_to(self._root).parts:
            assert isinstance(node, _Directory)
            node = node.current[name]
        return node


def _durable_tree(place: Path) -> _Directory:
    directory = _Directory()
    for path in place.iterdir():
        content = None if path.is_dir() else bytearray(path.read_bytes())
        directory.current[path.name] = _durable_tree(path) if content is None else _File(content, len(content))
    directory.sync()
    return directory


def _write_down(directory: _Directory, place: Path, chance: random.Random, written: dict[_File, bytes]) -> None:
    """Write a state of a directory to `place`; `written` remembers what was chosen for a file of several names."""
    place.mkdir(mode=0o700)
    names = dict(directory.durable)
    for change in directory.pending:
        if chance.random() < 0.5:
            _apply(change, names)
    for name, node in names.items():
        if isinstance(node, _Directory):
            _write_down(node, place / name, chance, written)
        else:
            content = written.setdefault(node, _survives(node, chance))
            (place / name).write_bytes(content)


def _survives(file: _File, chance: random.Random) -> bytes:
    """The bytes of a file that may be left: those synced, and behind them some, then nothing or zeros."""
    size = len(file.content)
    kept = chance.choice([file.synced, chance.randint(file.synced, size), size])
    zeros = chance.choice([0, size - kept])
    return bytes(file.content[:kept]) + bytes(zeros)
