# SPDX-License-Identifier: Apache-2.0
"""Whatever an NBD client sends, the server answers as the protocol says or hangs up; it reads its own answers back."""

from __future__ import annotations

import errno
import struct
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.nbd import negotiation, protocol, server_protocol
from donjon.nbd.negotiation import Flag, Option
from donjon.nbd.protocol import Chunk, Command
from donjon.nbd.server_protocol import ClientError
from donjon.testing.nbd_exports import MemoryExport
from donjon.testing.nbd_peers import client_asks, client_requests, server_hears

SIZE = 4096
CONTENT = bytes(range(1, 129)) * 32
GO = (Option.GO, negotiation.go_payload("disk"))
STRUCTURED = (Option.STRUCTURED_REPLY, b"")
CONTEXTS = (Option.SET_META_CONTEXT, negotiation.meta_context_payload("disk", ["base:allocation"]))
AGREE = client_asks(STRUCTURED, CONTEXTS, GO)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
counts = st.integers(0, (1 << 32) - 1)
offsets = st.integers(0, (1 << 64) - 1)
OPTIONS = st.tuples(
    st.one_of(st.sampled_from([int(option) for option in Option if option != Option.STARTTLS]), counts),
    st.one_of(
        st.just(b""),
        st.binary(max_size=30),
        names.map(str.encode),
        st.sampled_from(["", "disk"]).map(negotiation.go_payload),
        st.builds(negotiation.meta_context_payload, st.sampled_from(["", "disk"]), st.lists(names, max_size=3)),
    ),
)
REQUESTS = st.builds(
    client_requests,
    st.one_of(st.sampled_from([int(command) for command in Command]), st.integers(0, 65535)),
    st.one_of(st.integers(0, SIZE), offsets),
    st.one_of(st.integers(0, SIZE), counts),
    flags=st.one_of(st.just(0), st.integers(0, 65535)),
)


def disk(*, read_only: bool = True) -> MemoryExport:
    return MemoryExport(CONTENT, read_only=read_only)


@given(sent=st.one_of(st.binary(max_size=200), st.lists(OPTIONS, max_size=5).map(lambda asked: client_asks(*asked))))
def test_a_client_that_talks_nonsense_is_only_answered(sent: bytes) -> None:
    answer = server_hears(sent, {"disk": disk()})
    negotiation.parse_greeting(answer[: negotiation.GREETING_LENGTH])


@given(sent=st.one_of(st.binary(max_size=200), st.lists(REQUESTS, max_size=5).map(b"".join)), writable=st.booleans())
def test_requests_that_are_nonsense_are_refused_and_break_nothing(sent: bytes, writable: bool) -> None:
    export = disk(read_only=not writable)
    server_hears(AGREE + sent, {"disk": export})
    assert len(export.content) == SIZE
    assert all(0 <= offset <= offset + length <= SIZE for offset, length in export.reads)
    assert writable or export.content == CONTENT


@given(offset=st.integers(0, 2 * SIZE), length=st.integers(0, 2 * SIZE), structured=st.booleans())
def test_any_stretch_within_the_disk_can_be_read_and_nothing_beyond(offset: int, length: int, structured: bool) -> None:
    options = [STRUCTURED, GO] if structured else [GO]
    export = {"disk": disk()}
    answer = server_hears(client_asks(*options) + client_requests(Command.READ, offset, length), export)
    answer = answer.removeprefix(server_hears(client_asks(*options), export))
    if offset + length > SIZE:
        assert error_of(answer) == errno.EINVAL
    elif not structured:
        assert answer == server_protocol.simple_reply(7) + CONTENT[offset : offset + length]
    elif length:
        assert answer == server_protocol.data_head(7, offset, length, done=True) + CONTENT[offset : offset + length]
    else:
        assert answer == server_protocol.done_chunk(7)


def error_of(answer: bytes) -> int:
    if protocol.is_structured(answer):
        reply = protocol.parse_reply(answer[:20])
        assert (reply.chunk, reply.done, reply.length) == (Chunk.ERROR, True, len(answer) - 20)
        return protocol.parse_error(answer[20:])[0]
    return protocol.parse_reply(answer).error


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (client_requests(Command.READ, 0, 1, flags=1 << 2), errno.EINVAL),
        (client_requests(99, 0, 1), errno.EINVAL),
        (client_requests(Command.READ, 0, negotiation.MAX_REQUEST + 1), errno.EOVERFLOW),
        (client_requests(Command.READ, (1 << 64) - 1, 2), errno.EINVAL),
        (client_requests(Command.WRITE, 0, 4) + b"data", errno.EPERM),
        (client_requests(Command.WRITE_ZEROES, 0, 4), errno.EPERM),
        (client_requests(Command.TRIM, 0, 4), errno.EPERM),
        (client_requests(Command.BLOCK_STATUS, 0, 0), errno.EINVAL),
    ],
)
def test_what_cannot_be_done_is_refused_and_the_next_request_is_answered(request_: bytes, error: int) -> None:
    export = {"disk": disk()}
    last = client_requests(Command.FLUSH, 0, 0, handle=8)
    answer = server_hears(AGREE + request_ + last, export).removeprefix(server_hears(AGREE, export))
    assert error_of(answer.removesuffix(server_protocol.done_chunk(8))) == error


def test_contexts_go_with_the_export_they_were_agreed_for_only() -> None:
    both = {"disk": disk(), "other": disk()}
    agree = client_asks(STRUCTURED, CONTEXTS, (Option.GO, negotiation.go_payload("other")))
    answer = server_hears(agree + client_requests(Command.BLOCK_STATUS, 0, SIZE), both)
    assert error_of(answer.removeprefix(server_hears(agree, both))) == errno.EINVAL


def test_an_export_that_there_is_not_can_be_asked_for_and_another_one_taken() -> None:
    sent = client_asks((Option.GO, negotiation.go_payload("nope")), STRUCTURED, GO)
    answer = server_hears(sent + client_requests(Command.FLUSH, 0, 0), {"disk": disk()})
    assert b"there is no export 'nope'" in answer
    assert answer.endswith(server_protocol.done_chunk(7))


@given(size=st.integers(0, (1 << 63) - 1), flags=st.integers(0, 65535).map(Flag), name=names, contexts=st.lists(names))
def test_the_client_reads_what_the_server_says_of_an_export(
    size: int, flags: Flag, name: str, contexts: list[str]
) -> None:
    said = [server_protocol.export_payload(size, flags), server_protocol.block_size_payload()]
    assert negotiation.parse_export(said) == negotiation.RemoteExport(size, flags, negotiation.MAX_REQUEST)
    assert server_protocol.parse_export_request(negotiation.go_payload(name)).name == name
    asked = server_protocol.parse_context_request(negotiation.meta_context_payload(name, contexts))
    assert asked == (name, tuple(contexts))
    assert negotiation.parse_meta_context(server_protocol.context_payload(5, name)) == (name, 5)


@given(handle=offsets, offset=offsets, length=counts, words=names)
def test_each_side_reads_what_the_other_writes(handle: int, offset: int, length: int, words: str) -> None:
    request = server_protocol.parse_request(protocol.request(Command.READ, handle, offset, length))
    assert request == (0, Command.READ, handle, offset, length)
    hole = server_protocol.hole_chunk(handle, offset, length, done=False)
    assert protocol.parse_reply(hole[:20]) == (handle, 0, Chunk.OFFSET_HOLE, False, 12)
    assert protocol.parse_hole(hole[20:]) == (offset, length)
    assert protocol.parse_error(server_protocol.error_chunk(handle, 5, words)[20:]) == (5, words)


@given(
    stretches=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 2)), min_size=1),
    length=st.integers(1, 300),
    limit=st.integers(1, 5),
)
def test_a_block_status_says_the_same_in_fewer_words(stretches: list[tuple[int, int]], length: int, limit: int) -> None:
    clipped = server_protocol.clip_stretches(stretches, length, limit)
    said = server_protocol.status_chunk(1, 9, clipped, done=True)
    assert protocol.parse_block_status(said[20:]) == (9, clipped)
    by_byte = [flags for count, flags in stretches for _ in range(count)][:length]
    told = [flags for count, flags in clipped for _ in range(count)]
    assert told == by_byte[: len(told)]
    assert len(clipped) == limit or len(told) == len(by_byte)
    ends = list(accumulate(count for count, _ in clipped))
    assert all(by_byte[end - 1] != by_byte[end] for end in ends[:-1])


@pytest.mark.parametrize(
    "parse",
    [
        server_protocol.parse_client_greeting,
        server_protocol.parse_option_head,
        server_protocol.parse_export_request,
        server_protocol.parse_context_request,
        server_protocol.parse_name,
        server_protocol.parse_request,
    ],
)
@given(data=st.one_of(st.binary(max_size=80), st.binary(max_size=30).map(lambda rest: struct.pack(">I", 4) + rest)))
def test_no_bytes_from_a_client_raise_anything_but_client_error(parse: object, data: bytes) -> None:
    assert callable(parse)
    try:
        parse(data)
    except ClientError as error:
        assert "NBD client" in str(error)
