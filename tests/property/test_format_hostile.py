# SPDX-License-Identifier: Apache-2.0
"""Bytes from outside, random or almost right, bring nothing but donjon's own errors out of a parser."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.errors import DonjonError
from donjon.repository.format.blob import BlobType, PackedBlob
from donjon.repository.format.config import encode_config, new_config
from donjon.repository.format.crypto import open_sealed, seal
from donjon.repository.format.index_file import encode_index
from donjon.repository.format.keyfile import Scrypt, new_key_file
from donjon.repository.format.pack import encode_header
from donjon.repository.format.snapshot import Snapshot, encode_snapshot
from donjon.repository.format.tree import dir_node, encode_tree, file_node
from donjon.repository.format.unpacked import frame
from tests.fuzz.fuzz_format import KEY, PARSERS

BLOBS = [PackedBlob(b"\4" * 32, BlobType.DATA, 0, 99, 0), PackedBlob(b"\5" * 32, BlobType.TREE, 99, 50, 700)]
FILE = file_node("a", size=2, mtime_ns=5, inode=1, content=[b"\6" * 32, b"\7" * 32])
TREE = encode_tree([FILE, dir_node("b\n", b"\1" * 32, mtime_ns=0, inode=2)])
SNAPSHOT = encode_snapshot(Snapshot(time="2026-01-01T00:00:00Z", tree="ab" * 32, paths=["/vm"], tags=["t"]))
VALID = {
    "config": encode_config(new_config()),
    "key_file": new_key_file(KEY, "pw", created=datetime.now(UTC), username="u", hostname="h", scrypt=Scrypt(2, 1, 1)),
    "unpacked": frame(SNAPSHOT),
    "index": encode_index([(b"\3" * 32, BLOBS)]),
    "sealed": bytes(seal(KEY, b"text")),
    "trailer": bytes(200) + b"\x60\0\0\0",
    "header": open_sealed(KEY, encode_header(KEY, BLOBS)[:-4]),
    "snapshot": SNAPSHOT,
    "tree": TREE,
    "contents": TREE,
    "compressed": frame(SNAPSHOT)[1:],
}
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=5), scalars, max_size=3)
JSON = ["config", "key_file", "index", "snapshot", "tree", "contents"]


def parse(name: str, data: bytes) -> None:
    """Whatever is no DonjonError fails the test."""
    try:
        PARSERS[name](data)
    except DonjonError as error:
        assert str(error).startswith("cannot ")


def test_every_parser_has_a_valid_input_to_start_from() -> None:
    assert VALID.keys() == PARSERS.keys()


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=200))
def test_random_bytes(name: str, data: bytes) -> None:
    parse(name, data)


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_valid_bytes_with_a_stretch_changed(name: str, data: st.DataObject) -> None:
    valid = VALID[name]
    start = data.draw(st.integers(0, len(valid)))
    end = data.draw(st.integers(start, min(start + 40, len(valid))))
    other = data.draw(
        st.binary(max_size=8)
        | st.sampled_from([b"null", b"-1", b"1e999", b'"', b"{}", b"[]", b"\\", b"9" * 5000, b'"\\ud800"', valid])
    )
    parse(name, valid[:start] + other + valid[end:])


@pytest.mark.parametrize("name", PARSERS)
def test_valid_bytes_cut_anywhere(name: str) -> None:
    for length in range(len(VALID[name])):
        parse(name, VALID[name][:length])


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("hostile", [b"[" * 200_000, b'{"x":' * 200_000, b"9" * 100_000, b'"' + b"x" * 100_000])
def test_json_that_is_built_to_hurt(name: str, hostile: bytes) -> None:
    parse(name, hostile)
    parse(name, VALID[name].rstrip()[:-1] + b',"x":' + hostile)


@pytest.mark.parametrize("name", JSON)
@given(value=values, field=st.integers(0, 30))
def test_a_field_of_another_type(name: str, value: object, field: int) -> None:
    found = msgspec.json.decode(VALID[name])
    inner = found["nodes"][0] if "nodes" in found else found["packs"][0]["blobs"][0] if "packs" in found else found
    inner[sorted(inner)[field % len(inner)]] = value
    parse(name, msgspec.json.encode(found))
