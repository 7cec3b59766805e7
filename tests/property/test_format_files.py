# SPDX-License-Identifier: Apache-2.0
"""Packs' headers, index files, snapshots, keys and configs are read as they were written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.errors import ConfigError, IntegrityError
from donjon.repository.format import go_json
from donjon.repository.format.blob import BlobType, PackedBlob, parse_id
from donjon.repository.format.config import decode_config, encode_config, is_irreducible, new_config
from donjon.repository.format.crypto import OVERHEAD, SecretKey, seal
from donjon.repository.format.index_file import decode_index, encode_index, packed_blobs
from donjon.repository.format.keyfile import Scrypt, decode_key_file, new_key_file, open_key_file
from donjon.repository.format.pack import (
    TRAILER_LENGTH,
    decode_header,
    decode_trailer,
    encode_header,
    header_length,
)
from donjon.repository.format.snapshot import Snapshot, Summary, decode_snapshot, encode_snapshot

KEY = SecretKey(bytes(range(1, 33)), bytes(range(16)), bytes(range(1, 17)))
ids = st.binary(min_size=32, max_size=32)
u32 = st.integers(0, (1 << 32) - 1)
packed = st.builds(
    PackedBlob, ids, st.sampled_from(BlobType), st.just(0), st.integers(OVERHEAD, 1 << 24), st.just(0) | u32
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda when: when.replace(tzinfo=UTC))  # noqa: DTZ001


def in_order(blobs: list[PackedBlob]) -> list[PackedBlob]:
    placed, offset = [], 0
    for blob in blobs:
        placed.append(blob._replace(offset=offset))
        offset += blob.length
    return placed


@given(st.lists(packed, min_size=1, max_size=8).map(in_order))
def test_a_header_lists_the_blobs_of_its_pack(blobs: list[PackedBlob]) -> None:
    tail = encode_header(KEY, blobs)
    assert len(tail) == header_length(blobs)
    size = blobs[-1].offset + blobs[-1].length + len(tail)
    assert decode_trailer(tail[-TRAILER_LENGTH:], size) == len(tail) - TRAILER_LENGTH
    assert decode_header(KEY, tail[:-TRAILER_LENGTH], size) == blobs


@given(st.lists(packed, min_size=1, max_size=8).map(in_order), st.integers(-50, 50).filter(bool))
def test_a_header_that_does_not_fill_its_pack_is_refused(blobs: list[PackedBlob], difference: int) -> None:
    tail = encode_header(KEY, blobs)
    size = blobs[-1].offset + blobs[-1].length + len(tail)
    with pytest.raises(IntegrityError):
        decode_header(KEY, tail[:-TRAILER_LENGTH], size + difference)


@pytest.mark.parametrize(
    "entries",
    [b"\x04" + bytes(36), b"\x00" + bytes(35), b"\x02" + bytes(39), b"\x00" + bytes(36), b"\x02\x21" + bytes(39)],
    ids=["unknown kind", "plain entry cut", "compressed entry cut", "length too small", "compressed to nothing"],
)
def test_a_header_that_makes_no_sense_is_refused(entries: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_header(KEY, seal(KEY, entries), len(entries) + OVERHEAD + TRAILER_LENGTH)


@given(st.lists(st.tuples(ids, st.lists(packed, max_size=5).map(in_order)), max_size=5))
def test_an_index_file_is_read_as_written(packs: list[tuple[bytes, list[PackedBlob]]]) -> None:
    found = decode_index(encode_index(packs))
    assert [(parse_id(pack.id), packed_blobs(pack)) for pack in found] == packs


def test_packs_that_rustic_is_about_to_delete_are_no_packs() -> None:
    marked = b'{"packs":[],"packs_to_delete":[{"id":"%b","blobs":[]}]}' % (b"00" * 32)
    assert decode_index(marked) == []


@given(
    moments,
    st.lists(texts, max_size=3),
    st.none() | st.lists(texts, min_size=1, max_size=3),
    st.none() | st.builds(Summary, backup_start=texts, backup_end=texts, data_added=u32),
    texts,
)
def test_a_snapshot_is_read_as_written(
    taken_at: datetime, paths: list[str], tags: list[str] | None, summary: Summary | None, hostname: str
) -> None:
    snapshot = Snapshot(
        time=go_json.format_time(taken_at),
        tree="ab" * 32,
        paths=paths,
        tags=tags,
        summary=summary,
        hostname=hostname,
    )
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot
    assert snapshot.taken_at == taken_at


@given(moments, st.integers(-24 * 60 + 1, 24 * 60 - 1))
def test_a_time_of_any_zone_is_the_same_moment(when: datetime, minutes: int) -> None:
    local = when.astimezone(timezone(timedelta(minutes=minutes)))
    assert go_json.parse_time(local.isoformat()) == when
    assert go_json.parse_time(go_json.format_time(local)) == when


@given(st.integers(-(1 << 80), 1 << 80))
def test_any_number_of_nanoseconds_is_a_time_that_can_be_read(nanoseconds: int) -> None:
    when = go_json.parse_time(go_json.format_time_ns(nanoseconds))
    if -(1 << 62) < nanoseconds < 1 << 62:
        assert (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == nanoseconds // 1000


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (10**30, "9999-12-31T23:59:59.999999999Z"),
        (-(10**30), "0001-01-01T00:00:00Z"),
    ],
)
def test_times_are_written_as_go_writes_them(nanoseconds: int, text: str) -> None:
    assert go_json.format_time_ns(nanoseconds) == text


@pytest.mark.parametrize(
    "text", ["", "now", "2024-01-01", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00", "0001-01-01T00:00:00+05:00",
             "9999-12-31T23:59:59-05:00", "٢٠٢٤-01-01T00:00:00Z", "2024-01-01T00:00:00Z\n"]
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError):
        go_json.parse_time(text)


@settings(max_examples=20)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), texts, moments)
def test_a_key_file_opens_with_its_password_alone(password: str, other: str, created: datetime) -> None:
    content = new_key_file(KEY, password, created=created, username="u", hostname="h", scrypt=Scrypt(2, 1, 1))
    file = decode_key_file(content)
    assert open_key_file(file, password) == KEY
    assert open_key_file(file, other) == (KEY if other == password else None)
    assert password.encode() not in content or len(password) < 4


@pytest.mark.parametrize(
    "cost",
    [(0, 1, 1), (3, 1, 1), (1, 1, 1), (2, 0, 1), (2, 1, 0), (1 << 30, 8, 1), (2, 1, 1 << 29), (1 << 15, 8, 1 << 12)],
)
def test_a_key_file_that_asks_for_too_much_is_refused(cost: tuple[int, int, int]) -> None:
    good = new_key_file(KEY, "pw", created=datetime.now(UTC), username="u", hostname="h", scrypt=Scrypt(2, 1, 1))
    changed = good.replace(b'"N":2,"r":1,"p":1', b'"N":%d,"r":%d,"p":%d' % cost)
    with pytest.raises(IntegrityError):
        decode_key_file(changed)


def test_a_cost_that_scrypt_itself_refuses_is_damage() -> None:
    good = new_key_file(KEY, "pw", created=datetime.now(UTC), username="u", hostname="h", scrypt=Scrypt(2, 1, 1))
    with pytest.raises(IntegrityError):
        open_key_file(decode_key_file(good.replace(b'"N":2,', b'"N":65536,')), "pw")


def test_a_config_is_read_as_written_and_unknown_fields_do_not_matter() -> None:
    config = new_config()
    text = encode_config(config)
    assert decode_config(text) == config
    assert decode_config(text[:-1] + b',"chunker":"FixedSize"}') == config


@pytest.mark.parametrize("version", [0, 3, 99])
def test_a_repository_of_an_unknown_version_is_refused_and_not_called_damaged(version: int) -> None:
    text = encode_config(new_config()).replace(b'"version":2', b'"version":%d' % version)
    with pytest.raises(ConfigError, match=f"version {version}"):
        decode_config(text)


@pytest.mark.parametrize(("polynomial", "irreducible"), [
    (0b10, True), (0b11, True), (0b111, True), (0b101, False), (0b1011, True), (0b1111, False), (0b10011, True),
    (0b10101, False), (0x3DA3358B4DC173, True), (0x3DA3358B4DC172, False), (0, False), (1, False),
])  # fmt: skip
def test_polynomials_are_told_apart(polynomial: int, irreducible: bool) -> None:
    assert is_irreducible(polynomial) is irreducible


@pytest.mark.parametrize("text", ["", "0", "00" * 31, "AB" * 32, "zz" * 32, "00" * 33, "00 " * 21 + "0"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError):
        parse_id(text)
