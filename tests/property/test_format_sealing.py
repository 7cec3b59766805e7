# SPDX-License-Identifier: Apache-2.0
"""What is sealed, compressed or framed comes out as it went in, or not at all."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from donjon.errors import IntegrityError
from donjon.repository.format.compression import (
    CompressionStream,
    Compressor,
    compress_small,
    decompress,
    decompress_parts,
    decompress_unsized,
)
from donjon.repository.format.crypto import (
    OVERHEAD,
    TAG_LENGTH,
    Opening,
    SecretKey,
    open_sealed,
    seal,
    seal_stream,
)
from donjon.repository.format.unpacked import frame, unframe

KEY = SecretKey(bytes(range(1, 33)), bytes(range(16)), bytes(range(1, 17)))
texts = st.binary(max_size=300)
parts = st.lists(st.binary(max_size=60), max_size=10)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(min(place, len(data)) for place in at), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@given(texts)
def test_what_is_sealed_opens_again(text: bytes) -> None:
    sealed = seal(KEY, text)
    assert len(sealed) == len(text) + OVERHEAD
    assert open_sealed(KEY, sealed) == text


def test_the_same_text_never_seals_the_same_way_twice() -> None:
    assert len({bytes(seal(KEY, b"text")) for _ in range(100)}) == 100


@given(texts, st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_noticed(text: bytes, at: int, bit: int) -> None:
    sealed = seal(KEY, text)
    sealed[at % len(sealed)] ^= 1 << bit
    with pytest.raises(IntegrityError):
        open_sealed(KEY, sealed)


def test_a_change_of_any_single_byte_is_noticed() -> None:
    sealed = bytes(seal(KEY, b"all of it counts"))
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 0x55
        with pytest.raises(IntegrityError):
            open_sealed(KEY, changed)


@given(texts, st.integers(0, 400))
def test_a_cut_or_lengthened_text_is_noticed(text: bytes, length: int) -> None:
    sealed = bytes(seal(KEY, text))
    for wrong in (sealed[: min(length, len(sealed) - 1)], sealed + bytes(length + 1), sealed[1:]):
        with pytest.raises(IntegrityError):
            open_sealed(KEY, wrong)


@given(texts)
def test_another_key_opens_nothing(text: bytes) -> None:
    with pytest.raises(IntegrityError):
        open_sealed(SecretKey.generate(), seal(KEY, text))


@given(parts)
def test_a_text_sealed_in_parts_opens_whole(pieces: list[bytes]) -> None:
    assert open_sealed(KEY, b"".join(seal_stream(KEY, pieces))) == b"".join(pieces)


@given(texts, st.lists(st.integers(0, 340), max_size=6), st.lists(st.integers(0, 300), max_size=6))
def test_a_text_opens_in_any_parts(text: bytes, first: list[int], second: list[int]) -> None:
    sealed = bytes(seal(KEY, text))
    opening = Opening(KEY, len(sealed))
    for part in cut(sealed, first):
        opening.authenticate(part)
    opening.verify()
    assert b"".join(map(opening.decrypt, cut(sealed[16:-TAG_LENGTH], second))) == text


@given(texts, st.lists(st.integers(0, 340), max_size=6), st.integers(0))
def test_damage_is_noticed_in_any_parts_before_anything_is_decrypted(text: bytes, at: list[int], place: int) -> None:
    sealed = seal(KEY, text)
    sealed[place % len(sealed)] ^= 1
    opening = Opening(KEY, len(sealed))
    for part in cut(bytes(sealed), at):
        opening.authenticate(part)
    with pytest.raises(IntegrityError):
        opening.verify()
    with pytest.raises(ValueError, match="before verify"):
        opening.decrypt(b"x")


@pytest.mark.parametrize("lengths", [(31, 16, 16), (32, 15, 16), (32, 16, 17), (0, 0, 0)])
def test_a_malformed_key_is_refused(lengths: tuple[int, int, int]) -> None:
    with pytest.raises(IntegrityError):
        SecretKey(*(b"\1" * length for length in lengths))


@pytest.mark.parametrize("zero", range(3))
def test_a_key_of_zeros_is_refused(zero: int) -> None:
    with pytest.raises(IntegrityError):
        SecretKey(*(bytes(length) if n == zero else b"\1" * length for n, length in enumerate((32, 16, 16))))


def test_a_key_does_not_show_itself() -> None:
    assert "\\x" not in repr(KEY)
    assert "encrypt" not in repr(KEY)


@given(st.binary(min_size=1, max_size=2000), st.integers(1, 19))
def test_what_is_compressed_is_smaller_and_comes_back(text: bytes, level: int) -> None:
    compressed = Compressor(level).compress(text * 3)
    if compressed is not None:
        assert len(compressed) < len(text) * 3
        assert decompress(compressed, len(text) * 3) == text * 3


@pytest.mark.parametrize("level", [1, 3, 9, 19])
def test_a_block_compresses_at_every_level_and_noise_never_grows(level: int) -> None:
    compressor = Compressor(level)
    noise = os.urandom(1 << 19)
    assert compressor.compress(noise) is None
    half = noise[: 1 << 18] + b"structure" * 29128
    compressed = compressor.compress(half)
    assert compressed is not None
    assert decompress(compressed, len(half)) == half


@pytest.mark.parametrize("level", [0, 20, -1])
def test_a_level_that_is_none_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match="level"):
        Compressor(level)


@given(texts, st.integers(0, 400))
def test_a_frame_must_hold_as_many_bytes_as_promised(text: bytes, length: int) -> None:
    compressed = compress_small(text)
    if length == len(text):
        assert decompress(compressed, length) == text
    else:
        with pytest.raises(IntegrityError):
            decompress(compressed, length)


def test_a_frame_that_claims_to_be_huge_gets_no_memory() -> None:
    claims_a_terabyte = zstandard.MAGIC_NUMBER.to_bytes(4, "little") + b"\xe0" + (1 << 40).to_bytes(8, "little")
    for forged in (claims_a_terabyte, claims_a_terabyte + b"\x01\0\0"):
        with pytest.raises(IntegrityError):
            decompress(forged, 1000)


@given(parts, st.lists(st.integers(0, 700), max_size=6))
def test_a_text_is_compressed_and_decompressed_in_any_parts(pieces: list[bytes], at: list[int]) -> None:
    stream = CompressionStream()
    compressed = b"".join(map(stream.update, pieces)) + stream.finish()
    assert b"".join(decompress_parts(cut(compressed, at))) == b"".join(pieces)
    assert decompress_unsized(compressed, 600) == b"".join(pieces)


def test_what_compressed_a_thousandfold_still_comes_in_small_parts() -> None:
    compressed = compress_small(bytes(50 << 20))
    lengths = [len(part) for part in decompress_parts([compressed])]
    assert (sum(lengths), max(lengths)) == (50 << 20, 1 << 20)


def test_a_text_beyond_the_limit_is_refused() -> None:
    with pytest.raises(IntegrityError, match="larger"):
        decompress_unsized(compress_small(bytes(5 << 20)), 4 << 20)


@given(texts)
def test_a_framed_text_comes_back(text: bytes) -> None:
    assert unframe(frame(text)) == text


@pytest.mark.parametrize("text", [b"{}", b'["as of old"]'])
def test_plain_json_needs_no_frame(text: bytes) -> None:
    assert unframe(text) == text
