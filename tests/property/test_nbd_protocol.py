# SPDX-License-Identifier: Apache-2.0
"""Whatever an NBD server sends, the client takes it as the protocol means it or raises HostError."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.errors import HostError
from donjon.nbd import negotiation, protocol
from donjon.nbd.client import NbdClient
from donjon.nbd.protocol import Coverage

GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)
SIZE = 4096


def option_answer(option: int, kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x0003E889045565A9, option, kind, len(payload)) + payload


def chunk(kind: int, payload: bytes, *, handle: int = 1, done: bool = True) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, int(done), kind, handle, len(payload)) + payload


AGREED = (
    GREETING
    + option_answer(8, 1)
    + option_answer(10, 4, struct.pack(">I", 5) + b"base:allocation")
    + option_answer(10, 1)
    + option_answer(7, 3, struct.pack(">HQH", 0, SIZE, 1))
    + option_answer(7, 1)
)
CHUNKS = st.builds(
    chunk,
    st.sampled_from([0, 1, 2, 5, 6, 0x8001, 0x8002]),
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda at, data: struct.pack(">Q", at) + data, st.integers(0, 2 * SIZE), st.binary(max_size=SIZE + 1)
        ),
        st.builds(lambda at, n: struct.pack(">QI", at, n), st.integers(0, 2 * SIZE), st.integers(0, 2 * SIZE)),
    ),
    handle=st.integers(0, 2),
    done=st.booleans(),
)


def talk(sent: bytes, use: Callable[[NbdClient], object]) -> None:
    """Let a client use a server that says just this."""
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder, "socket")
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer, suppress(OSError):
                peer.sendall(sent)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(SIZE):
                    pass

        server = Thread(target=serve)
        server.start()
        try:
            client = NbdClient.connect_unix(path, contexts=["base:allocation"])
            try:
                use(client)
            finally:
                client.close()
        finally:
            server.join()


def read_all(client: NbdClient) -> bytes:
    content = bytearray(b"?" * SIZE)
    client.read_into(0, memoryview(content))
    return bytes(content)


@settings(deadline=None)
@given(sent=st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(lambda more: GREETING + more)))
def test_a_server_that_talks_nonsense_is_refused(sent: bytes) -> None:
    with pytest.raises(HostError):
        talk(sent, read_all)


@settings(deadline=None)
@given(sent=st.one_of(st.binary(max_size=200), st.lists(CHUNKS, max_size=4).map(b"".join)))
def test_a_nonsense_answer_is_an_error(sent: bytes) -> None:
    with suppress(HostError):
        talk(AGREED + sent, read_all)


@settings(deadline=None)
@given(parts=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2), st.integers(0, 255)), max_size=4))
def test_an_answer_is_taken_only_if_it_brings_every_byte_once(parts: list[tuple[int, int, int]]) -> None:
    unit = SIZE // 4
    content = {at: bytes([fill]) * unit for start, count, fill in parts for at in range(start, start + count)}
    whole = sorted(at for start, count, _ in parts for at in range(start, start + count)) == list(range(4))
    sent = b"".join(_part(start * unit, count * unit, fill) for start, count, fill in parts) + chunk(0, b"")
    answers: list[bytes] = []
    with suppress(HostError):
        talk(AGREED + sent, lambda client: answers.append(read_all(client)))
    assert answers == ([b"".join(content[at] for at in range(4))] if whole else [])


def _part(offset: int, length: int, fill: int) -> bytes:
    if fill:
        return chunk(1, struct.pack(">Q", offset) + bytes([fill]) * length, done=False)
    return chunk(2, struct.pack(">QI", offset, length), done=False)


@settings(deadline=None)
@given(sent=st.one_of(st.binary(max_size=200), st.lists(CHUNKS, max_size=4).map(b"".join)))
def test_a_wrong_block_status_is_refused_or_tiles_the_disk(sent: bytes) -> None:
    def examine(client: NbdClient) -> None:
        at = 0
        for status in client.block_status():
            assert (status.offset, len(status.flags)) == (at, 1)
            at += status.length
        assert at == SIZE

    with suppress(HostError):
        talk(AGREED + sent, examine)


@given(cuts=st.sets(st.integers(1, SIZE - 1), max_size=5), chance=st.randoms(use_true_random=False))
def test_chunks_may_come_in_any_order(cuts: set[int], chance: Random) -> None:
    content = bytes(range(256)) * (SIZE // 256)
    edges = [0, *sorted(cuts), SIZE]
    pieces = [chunk(1, struct.pack(">Q", start) + content[start:end], done=False) for start, end in pairwise(edges)]
    chance.shuffle(pieces)
    answers: list[bytes] = []
    talk(AGREED + b"".join(pieces) + chunk(0, b""), lambda client: answers.append(read_all(client)))
    assert answers == [content]


@given(
    first=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3))),
    second=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3))),
    end=st.integers(1, 200),
)
def test_contexts_are_laid_over_each_other(
    first: list[tuple[int, int]], second: list[tuple[int, int]], end: int
) -> None:
    merged = list(protocol.merge_status(0, end, [first, second]))
    by_byte = [flags for status in merged for flags in [status.flags] * status.length]
    one, two = ([flags for length, flags in stretches for _ in range(length)] for stretches in (first, second))
    assert by_byte == list(zip(one, two, strict=False))[:end]


@given(parts=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=6))
def test_a_reply_counts_only_if_every_byte_came_once(parts: list[tuple[int, int]]) -> None:
    filled = sorted(at for start, length in parts for at in range(start, start + length))
    complete = True
    try:
        coverage = Coverage(0, 20)
        for start, length in parts:
            coverage.fill(start, length)
        coverage.check_complete()
    except HostError:
        complete = False
    if complete:
        assert filled == list(range(20))


PARSERS: list[Callable[[bytes], object]] = [
    negotiation.parse_greeting,
    lambda data: negotiation.parse_option_reply(data, negotiation.Option.GO),
    lambda data: negotiation.parse_export([data]),
    negotiation.parse_meta_context,
    protocol.parse_reply,
    protocol.parse_data_prefix,
    protocol.parse_hole,
    protocol.parse_error,
    protocol.parse_block_status,
]


@pytest.mark.parametrize("parse", PARSERS)
@given(data=st.binary(max_size=80))
def test_no_bytes_from_a_server_raise_anything_but_host_error(parse: Callable[[bytes], object], data: bytes) -> None:
    with suppress(HostError):
        parse(data)
