# SPDX-License-Identifier: Apache-2.0
"""Tree blobs: directories as restic writes them, byte for byte, with room for a file of a hundred million blocks.

The list of a disk's blocks takes 67 bytes a block and stands inside one JSON text whose hash is its name. It is
therefore never built: `encode_parts` and `split_contents` pass it on, ids in binary on our side.

Source: restic design.rst, "Trees and Data"; restic internal/restic/node.go for order and omission of fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec
import numpy as np

from donjon.errors import IntegrityError
from donjon.repository.format import go_json
from donjon.repository.format.blob import ID_LENGTH

MODE_DIR = 1 << 31
_OPEN = b'"content":['
_STRIDE = ID_LENGTH * 2 + 3  # "hex",
_AT_ONCE = 1 << 14
_LONGEST_SKELETON = 256 << 20


class ExtendedAttribute(msgspec.Struct, frozen=True):
    """An extended attribute; `value` is base64 in the file."""

    name: str
    value: bytes | None


class Node(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a directory, fields in restic's order.

    `name` is as it stands in the tree: see `go_json.quote_name`. `content` lists blob ids in hex; `subtree` too.
    """

    name: str
    type: str
    mode: int = 0
    mtime: str = ""
    atime: str = ""
    ctime: str = ""
    uid: int
    gid: int
    user: str = ""
    group: str = ""
    inode: int = 0
    device_id: int = 0
    size: int = 0
    links: int = 0
    linktarget: str = ""
    linktarget_raw: bytes = b""
    extended_attributes: list[ExtendedAttribute] = []
    generic_attributes: dict[str, msgspec.Raw] = {}
    device: int = 0
    content: list[str] | None
    subtree: str | None = None
    error: str = ""


class Tree(msgspec.Struct, frozen=True):
    """A directory: its nodes, ascending by the bytes of their names."""

    nodes: list[Node]


def file_node(
    name: str, *, size: int, mtime_ns: int, inode: int, mode: int = 0o600, content: Iterable[bytes] = ()
) -> Node:
    """A regular file of root's, as donjon keeps disks and what belongs to them."""
    time = go_json.format_time_ns(mtime_ns)
    return Node(
        name=go_json.quote_name(name),
        type="file",
        mode=mode,
        mtime=time,
        atime=time,
        ctime=time,
        uid=0,
        gid=0,
        inode=inode,
        size=size,
        links=1,
        content=[blob.hex() for blob in content],
    )


def dir_node(name: str, subtree: bytes, *, mtime_ns: int, inode: int) -> Node:
    """A directory of root's."""
    time = go_json.format_time_ns(mtime_ns)
    return Node(
        name=go_json.quote_name(name),
        type="dir",
        mode=MODE_DIR | 0o700,
        mtime=time,
        atime=time,
        ctime=time,
        uid=0,
        gid=0,
        inode=inode,
        content=None,
        subtree=subtree.hex(),
    )


def encode_tree(nodes: Iterable[Node]) -> bytes:
    """The text of a directory.

    Raises:
        ValueError: two nodes have the same name.
    """
    return b"".join(encode_parts((node, None) for node in nodes))


def encode_parts(nodes: Iterable[tuple[Node, Iterable[bytes] | None]]) -> Iterator[bytes]:
    """The text of a directory, in parts.

    Args:
        nodes: each with the packed ids of its content in parts (any whole number of ids each), which then stand in
            the place of the node's own (empty) `content`; None to take the node as it is.

    Raises:
        ValueError: two nodes have the same name.
    """
    ordered = sorted(nodes, key=lambda pair: _sort_key(pair[0]))
    names = [node.name for node, _ in ordered]
    if len(set(names)) != len(names):
        raise ValueError("two entries of one name in a directory")
    yield b'{"nodes":['
    for number, (node, ids) in enumerate(ordered):
        text = (b"," if number else b"") + go_json.encode(node)
        if ids is None:
            yield text
            continue
        head, found, tail = text.partition(_OPEN + b"]")
        if not found:
            raise ValueError("a node whose content comes in parts must have empty content")
        yield head + _OPEN
        yield from _hex_list(ids)
        yield b"]" + tail
    yield b"]}\n"


def _sort_key(node: Node) -> bytes:
    return go_json.unquote_name(node.name).encode("utf-8", "surrogateescape")


def _hex_list(parts: Iterable[bytes]) -> Iterator[bytes]:
    comma = b""
    for part in parts:
        for at in range(0, len(part), _AT_ONCE * ID_LENGTH):
            text = part[at : at + _AT_ONCE * ID_LENGTH].hex(",", ID_LENGTH).replace(",", '","')
            yield b'%b"%b"' % (comma, text.encode())
            comma = b","


def decode_tree(text: bytes) -> Tree:
    """A directory.

    Raises:
        IntegrityError: this is not one.
    """
    return go_json.decode(text, Tree, "a tree")


def split_contents(parts: Iterable[bytes], keep: Callable[[int, bytes], None]) -> Tree:
    """A directory whose lists of content go elsewhere instead of into the nodes, in bounded memory.

    Args:
        parts: the text of the tree.
        keep: called with the number of the list (nodes that have content count, from 0) and packed ids, in order.

    Raises:
        IntegrityError: this is not a directory, or not written as Go writes it (no white space).
    """
    splitter = _Splitter(keep)
    for part in parts:
        splitter.feed(part)
    return splitter.finish()


class _Splitter:
    """Takes a tree's text in parts; lists of content are passed on, the rest is kept as a skeleton."""

    def __init__(self, keep: Callable[[int, bytes], None]) -> None:
        self._keep = keep
        self._skeleton = bytearray()
        self._pending = b""
        self._inside = False
        self._lists = 0
        self._after_comma = False

    def feed(self, part: bytes) -> None:
        self._pending += part
        while self._take_list() if self._inside else self._take_skeleton():
            pass
        if len(self._skeleton) > _LONGEST_SKELETON:
            raise IntegrityError("cannot read a tree: it is too large")

    def _take_skeleton(self) -> bool:
        """Move text up to the next list of content; False when more text is needed."""
        at = self._pending.find(_OPEN)
        self._inside = at >= 0
        if not self._inside:
            at = max(0, len(self._pending) - len(_OPEN) + 1)
            self._skeleton += self._pending[:at]
            self._pending = self._pending[at:]
            return False
        self._skeleton += self._pending[: at + len(_OPEN)]
        self._pending = self._pending[at + len(_OPEN) :]
        return True

    def _take_list(self) -> bool:
        """Pass on whole ids; False when more text is needed."""
        if self._pending[:1] == b"]" and not self._after_comma:
            self._inside = False
            self._lists += 1
            return True
        whole = len(self._pending) // _STRIDE
        if not whole:
            return False
        rows = np.frombuffer(self._pending, np.uint8, whole * _STRIDE).reshape(-1, _STRIDE)
        ends = np.flatnonzero(rows[:, -1] != ord(","))
        count = int(ends[0]) + 1 if len(ends) else whole
        last = rows[count - 1, -1]
        self._pass_on(rows[:count])
        taken = count * _STRIDE - (last == ord("]"))
        self._after_comma = last == ord(",")
        self._pending = self._pending[taken:]
        return True

    def _pass_on(self, rows: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
        quoted = (rows[:, 0] == ord('"')).all() and (rows[:, -2] == ord('"')).all()
        try:
            if not quoted or rows[-1, -1] not in b",]":
                raise ValueError
            ids = bytes.fromhex(rows[:, 1:-2].tobytes().decode("ascii"))
            if len(ids) != len(rows) * ID_LENGTH:
                raise ValueError
        except ValueError:
            raise IntegrityError("cannot read a tree: its list of content is not what restic writes") from None
        self._keep(self._lists, ids)

    def finish(self) -> Tree:
        if self._inside:
            raise IntegrityError("cannot read a tree: it ends within a list of content")
        tree = decode_tree(bytes(self._skeleton + self._pending))
        listed = [number for number, node in enumerate(tree.nodes) if node.content is not None]
        if len(listed) != self._lists:
            raise IntegrityError("cannot read a tree: its lists of content are not where they belong")
        return tree
