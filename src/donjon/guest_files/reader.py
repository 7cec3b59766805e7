# SPDX-License-Identifier: Apache-2.0
"""The sandboxed process that parses guests' file systems: `python -m donjon.guest_files.reader`, for donjon alone.

It has two pipes and nothing else: it asks for bytes of disks on one, and tells what it finds.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator

import msgspec

from donjon.errors import IntegrityError
from donjon.guest_files.disk import RemoteDisk
from donjon.guest_files.file_systems.file_system import PARSER_ERRORS, Attributes, Extras, Node, is_file, why
from donjon.guest_files.messages import (
    MOST_RANGES,
    Broken,
    Bytes,
    Channel,
    Content,
    Damaged,
    Done,
    Entry,
    Missing,
    Open,
    Problem,
    Read,
    ToReader,
    Walk,
)
from donjon.guest_files.sandbox import shut_in
from donjon.guest_files.volumes import Found, find_volumes

_PIECE = 1 << 20
_MOST_LINKS = 40
_DEEPEST = 4096


class Reader:
    """Answers what it is asked."""

    def __init__(self, channel: Channel[ToReader]) -> None:
        self._channel = channel
        self._found: dict[str, Found] = {}

    def serve(self) -> None:
        """Answer until nobody asks any more."""
        while True:
            match self._channel.receive():
                case Open() as request:
                    self._open(request)
                case Walk() as request:
                    self._walk(request)
                case Bytes() | Damaged():
                    raise IntegrityError("nobody asked for that")
            self._channel.send(Done())

    def _open(self, request: Open) -> None:
        disks = [(name, self._disk(number, size)) for number, (name, size) in enumerate(request.disks)]
        for found in find_volumes(disks, request.passphrases):
            self._found[found.volume.name] = found
            self._channel.send(found.volume)

    def _disk(self, number: int, size: int) -> RemoteDisk:
        def fetch(offset: int, length: int) -> bytes:
            self._channel.send(Read(number, offset, length))
            answer = self._channel.receive()
            if isinstance(answer, Damaged):
                raise IntegrityError(answer.reason)
            if not isinstance(answer, Bytes) or len(answer.data) != length:
                raise IntegrityError("a disk gave other bytes than it was asked for")
            return answer.data

        return RemoteDisk(size, fetch)

    def _walk(self, request: Walk) -> None:
        found = self._found.get(request.volume)
        if found is None or found.file_system is None:
            self._channel.send(Missing())
            return
        try:
            path, node = resolve(found.file_system.root(), request.path)
        except FileNotFoundError:
            self._channel.send(Missing())
        except PARSER_ERRORS as error:
            self._channel.send(Problem(request.path, why(error)))
        else:
            for message in described(path, node, request):
                self._channel.send(message)


def resolve(root: Node, path: list[str]) -> tuple[list[str], Node]:
    """The node at a path, links on the way followed, a link at its end not; and the path without links.

    Raises:
        FileNotFoundError: there is none.
    """
    found: list[tuple[str, Node]] = []
    rest, links = list(path), 0
    while rest:
        name = rest.pop(0)
        if name in {"", "."}:
            continue
        if name == "..":
            del found[-1:]
            continue
        node = _child(found[-1][1] if found else root, name)
        target = node.attributes().target if rest else ""
        if not target:
            found.append((name, node))
            continue
        links += 1
        if links > _MOST_LINKS:
            raise FileNotFoundError
        if target.startswith("/"):
            found.clear()
        rest[:0] = target.split("/")
    return [name for name, _ in found], found[-1][1] if found else root


def _child(node: Node, name: str) -> Node:
    if stat.S_ISDIR(node.attributes().mode):
        for child in node.children():
            if not isinstance(child, str) and child.name == name:
                return child
    raise FileNotFoundError


def described(path: list[str], node: Node, request: Walk) -> Iterator[msgspec.Struct]:
    """A node, its content if that is asked for, and what is below it."""
    stack: list[Iterator[tuple[list[str], Node | str]]] = [iter([(path, node)])]
    above: list[int] = []
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
            del above[-1:]
            continue
        where, child = item
        if isinstance(child, str):
            yield Problem(where, child)
            continue
        try:
            attributes = child.attributes()
            yield from _one(where, child, attributes, full=request.full)
        except PARSER_ERRORS as error:
            yield Problem(where, why(error))
            continue
        if stat.S_ISDIR(attributes.mode) and len(stack) <= request.depth:
            if attributes.inode in above:
                yield Problem(where, "the directory holds itself")
                continue
            if len(stack) > _DEEPEST:
                yield Problem(where, "it is too deep: what it holds is not read")
                continue
            above.append(attributes.inode)
            stack.append(_below(where, child))


def _below(path: list[str], node: Node) -> Iterator[tuple[list[str], Node | str]]:
    try:
        for child in node.children():
            if isinstance(child, str):
                yield [*path, "?"], child
            elif not _is_name(child.name):
                yield [*path, "?"], "its name is no name"
            else:
                yield [*path, child.name], child
    except PARSER_ERRORS as error:
        yield path, why(error)


def _is_name(name: str) -> bool:
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name


def _one(path: list[str], node: Node, attributes: Attributes, *, full: bool) -> Iterator[msgspec.Struct]:
    extras = node.extras() if full else Extras()
    ranges = _bounded(extras.ranges, attributes.size)
    has_content = full and is_file(attributes.mode)
    yield Entry(
        path=path,
        mode=attributes.mode,
        uid=attributes.uid,
        gid=attributes.gid,
        size=attributes.size,
        mtime_ns=attributes.mtime_ns,
        inode=attributes.inode,
        links=attributes.links,
        target=attributes.target,
        device=attributes.device,
        xattrs=extras.xattrs,
        ranges=ranges if has_content else None,
        lacks=extras.lacks,
        unreadable=extras.unreadable,
    )
    if has_content and not extras.unreadable:
        yield from _content(node, ranges)


def _bounded(ranges: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    return ranges if len(ranges) <= MOST_RANGES else [(0, size)]


def _content(node: Node, ranges: list[tuple[int, int]]) -> Iterator[msgspec.Struct]:
    try:
        for offset, length in ranges:
            for at in range(offset, offset + length, _PIECE):
                yield Content(node.read(at, min(_PIECE, offset + length - at)))
    except PARSER_ERRORS as error:
        yield Broken(why(error))


def main() -> None:
    """Shut the door, then serve."""
    channel = Channel(sys.stdin.fileno(), sys.stdout.fileno(), msgspec.msgpack.Decoder(ToReader))
    shut_in()
    Reader(channel).serve()


if __name__ == "__main__":
    main()
