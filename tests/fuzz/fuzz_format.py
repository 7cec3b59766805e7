# SPDX-License-Identifier: Apache-2.0
"""Feeds any bytes to every parser of the repository's format: only donjon's own errors may come out.

Run it as `python tests/fuzz/fuzz_format.py -runs=1000000 CORPUS`; needs atheris. tests/property/test_format_hostile.py
runs the same parsers as an ordinary test.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module

from donjon.errors import DonjonError
from donjon.repository.blob_index import BlobIndex
from donjon.repository.format import go_json
from donjon.repository.format.compression import decompress, decompress_unsized
from donjon.repository.format.config import decode_config
from donjon.repository.format.crypto import OVERHEAD, SecretKey, open_sealed, seal
from donjon.repository.format.index_file import decode_index, packed_blobs
from donjon.repository.format.keyfile import decode_key_file, open_key_file
from donjon.repository.format.pack import TRAILER_LENGTH, decode_header, decode_trailer
from donjon.repository.format.snapshot import decode_snapshot
from donjon.repository.format.tree import decode_tree, split_contents
from donjon.repository.format.unpacked import unframe

KEY = SecretKey(b"\1" * 32, b"\2" * 16, b"\3" * 16)
_CHEAP = 1 << 12


def parse_config(data: bytes) -> None:
    """The config."""
    decode_config(data)


def parse_key_file(data: bytes) -> None:
    """A key file, and unless that costs too much what is in it."""
    file = decode_key_file(data)
    if file.n * file.r * file.p < _CHEAP:
        open_key_file(file, "pw")


def parse_unpacked(data: bytes) -> None:
    """The framing of index, snapshot and lock files."""
    unframe(data)


def parse_index(data: bytes) -> None:
    """An index file, one pack at a time and all at once."""
    packs = decode_index(data)
    with suppress(DonjonError):
        for pack in packs:
            packed_blobs(pack)
    BlobIndex().load(packs)


def parse_sealed(data: bytes) -> None:
    """Sealed bytes."""
    open_sealed(KEY, data)


def parse_trailer(data: bytes) -> None:
    """The end of a pack."""
    decode_trailer(data[-TRAILER_LENGTH:], len(data))


def parse_header(data: bytes) -> None:
    """A pack's header, its seal intact."""
    decode_header(KEY, seal(KEY, data), len(data) + OVERHEAD + TRAILER_LENGTH)


def parse_snapshot(data: bytes) -> None:
    """A snapshot and its time."""
    _ = decode_snapshot(data).taken_at


def parse_tree(data: bytes) -> None:
    """A directory and the names in it."""
    for node in decode_tree(data).nodes:
        go_json.unquote_name(node.name)


def parse_contents(data: bytes) -> None:
    """A directory in parts."""
    split_contents((data[at : at + 50] for at in range(0, len(data), 50)), lambda number, ids: None)


def parse_compressed(data: bytes) -> None:
    """A compressed blob."""
    with suppress(DonjonError):
        decompress_unsized(data, 1 << 20)
    decompress(data, 1000)


PARSERS: Mapping[str, Callable[[bytes], None]] = {
    parser.__name__.removeprefix("parse_"): parser
    for parser in (
        parse_config,
        parse_key_file,
        parse_unpacked,
        parse_index,
        parse_sealed,
        parse_trailer,
        parse_header,
        parse_snapshot,
        parse_tree,
        parse_contents,
        parse_compressed,
    )
}


def parse_all(data: bytes) -> None:
    """Give the bytes to every parser; whatever is not a DonjonError comes out."""
    for parser in PARSERS.values():
        with suppress(DonjonError):
            parser(data)


def main() -> None:
    """Run the fuzzer with the arguments of libFuzzer."""
    atheris = import_module("atheris")
    atheris.instrument_all()
    atheris.Setup(sys.argv, parse_all)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
