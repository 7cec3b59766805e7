# SPDX-License-Identifier: Apache-2.0
"""Directories are written and read as restic does, however large and in whatever pieces."""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from donjon.errors import IntegrityError
from donjon.repository.format.go_json import quote_name, unquote_name
from donjon.repository.format.tree import (
    ExtendedAttribute,
    Node,
    Tree,
    decode_tree,
    dir_node,
    encode_parts,
    encode_tree,
    file_node,
    split_contents,
)

ids = st.binary(min_size=32, max_size=32)
raw_names = st.binary(min_size=1, max_size=20).filter(lambda name: b"/" not in name and b"\0" not in name)
names = st.one_of(
    raw_names.map(os.fsdecode), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
)
plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
attributes = st.lists(st.builds(ExtendedAttribute, plain, st.none() | st.binary(max_size=9)), max_size=2)
nodes = st.builds(
    Node,
    name=names.map(quote_name),
    type=st.sampled_from(["file", "dir", "symlink", "fifo"]),
    mode=st.integers(0, (1 << 32) - 1),
    uid=st.integers(0, (1 << 32) - 1),
    gid=st.integers(0, (1 << 32) - 1),
    user=plain,
    inode=st.integers(0, (1 << 64) - 1),
    size=st.integers(0, (1 << 63) - 1),
    linktarget=plain,
    extended_attributes=attributes,
    content=st.none() | st.lists(ids.map(bytes.hex), max_size=5),
)
directories = st.lists(nodes, max_size=6, unique_by=lambda node: node.name)


def cut(text: bytes, lengths: list[int]) -> list[bytes]:
    parts = []
    for length in lengths:
        parts.append(text[:length])
        text = text[length:]
    return [*parts, text]


def split(parts: list[bytes]) -> tuple[Tree, dict[int, bytes]]:
    lists: dict[int, bytes] = {}

    def keep(number: int, packed: bytes) -> None:
        lists[number] = lists.get(number, b"") + packed

    return split_contents(parts, keep), lists


@given(directories)
def test_a_directory_is_read_as_written(nodes: list[Node]) -> None:
    text = encode_tree(nodes)
    found = decode_tree(text)
    assert sorted(found.nodes, key=repr) == sorted(nodes, key=repr)
    assert encode_tree(found.nodes) == text
    order = [os.fsencode(unquote_name(node.name)) for node in found.nodes]
    assert order == sorted(order)
    assert text.endswith(b"]}\n")


@given(directories, st.lists(st.integers(0, 90), max_size=60))
def test_split_contents_reads_what_decode_tree_reads(nodes: list[Node], lengths: list[int]) -> None:
    text = encode_tree(nodes)
    expected = decode_tree(text).nodes
    tree, lists = split(cut(text, lengths))
    with_content = [node for node in expected if node.content is not None]
    assert [lists.get(number, b"").hex() for number in range(len(with_content))] == [
        "".join(node.content or ()) for node in with_content
    ]
    assert [node.name for node in tree.nodes] == [node.name for node in expected]
    assert [node.content for node in tree.nodes] == [None if node.content is None else [] for node in expected]


@given(directories, st.data())
def test_parts_give_the_text_that_whole_nodes_give(nodes: list[Node], data: st.DataObject) -> None:
    pairs: list[tuple[Node, list[bytes] | None]] = []
    for node in nodes:
        if node.content is None:
            pairs.append((node, None))
            continue
        packed = bytes.fromhex("".join(node.content))
        at = data.draw(st.integers(0, len(node.content))) * 32
        pairs.append((msgspec.structs.replace(node, content=[]), [packed[:at], packed[at:]]))
    assert b"".join(encode_parts(pairs)) == encode_tree(nodes)


def test_a_hundred_thousand_blocks_pass_through_in_pieces() -> None:
    packed = os.urandom(32 * 1000) * 100
    node = file_node("vda.raw", size=1, mtime_ns=0, inode=1)
    text = b"".join(encode_parts([(node, [packed[:32], b"", packed[32:]])]))
    largest = 0
    passed = bytearray()

    def keep(_: int, part: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(part))
        passed.extend(part)

    tree = split_contents((text[at : at + 1000] for at in range(0, len(text), 1000)), keep)
    assert (bytes(passed), tree.nodes) == (packed, [node])
    assert largest < 1000
    assert decode_tree(text).nodes[0].content == [packed[at : at + 32].hex() for at in range(0, len(packed), 32)]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b'aa","bb', b'aa", "bb', 1),
        lambda text: text.replace(b'"]', b'",]', 1),
        lambda text: text.replace(b'["', b'[,"', 1),
        lambda text: text.replace(b'["', b'["x', 1),
        lambda text: text.replace(b"aaaa", b"gggg", 1),
        lambda text: text.replace(b"aaaa", b"aa  ", 1),
        lambda text: text[: text.index(b"]")],
        lambda text: text[: text.index(b'"]')],
        lambda text: text.replace(b'"content":[', b'"content": [', 1),
    ],
)
def test_a_list_of_content_that_restic_would_not_write_is_refused(change: object) -> None:
    text = encode_tree([file_node("a", size=1, mtime_ns=0, inode=1, content=[b"\xaa" * 32, b"\xbb" * 32])])
    assert callable(change)
    changed = change(text)
    assert changed != text
    for step in (1, 7, 1000):
        with pytest.raises(IntegrityError):
            split([changed[at : at + step] for at in range(0, len(changed), step)])


def test_two_entries_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="one name"):
        encode_tree([dir_node("a", b"\1" * 32, mtime_ns=0, inode=1), file_node("a", size=0, mtime_ns=0, inode=2)])


@given(names)
@example('quote " backslash \\ newline \n tab \t bell \a escape \x1b delete \x7f')
@example("é \u2028 \u00ad \ue000 \U0001f600 \U000e0001 \ufffd \ufeff")
@example(os.fsdecode(b"\xff\xfe caf\xe9 \xed\xa0\x80"))
def test_any_name_survives_quoting(name: str) -> None:
    quoted = quote_name(name)
    assert unquote_name(quoted) == name
    quoted.encode()  # it can stand in JSON


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("plain.raw", "plain.raw"),
        ('a"b\\c', 'a\\"b\\\\c'),
        ("\a\b\f\n\r\t\v", "\\a\\b\\f\\n\\r\\t\\v"),
        ("\x00\x1b\x7f", "\\x00\\x1b\\x7f"),
        ("é日本\U0001f600", "é日本\U0001f600"),
        ("\u00a0\u00ad\u2028\ufeff", "\\u00a0\\u00ad\\u2028\\ufeff"),
        ("\U000e0001", "\\U000e0001"),
        (os.fsdecode(b"\xff"), "\\xff"),
    ],
)
def test_names_are_quoted_as_go_quotes_them(name: str, quoted: str) -> None:
    assert quote_name(name) == quoted


@pytest.mark.parametrize("quoted", ["\\", "\\q", "\\x1", "\\u12", "\\U00110000", "\\ud800", "\\777", "\\xgg"])
def test_a_name_with_a_broken_escape_is_refused(quoted: str) -> None:
    with pytest.raises(IntegrityError):
        unquote_name(quoted)
