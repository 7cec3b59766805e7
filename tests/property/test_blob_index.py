# SPDX-License-Identifier: Apache-2.0
"""The index finds what a plain dict would find, however the blobs came into it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.errors import IntegrityError
from donjon.repository.blob_index import BlobIndex, Location
from donjon.repository.format.blob import BlobType, PackedBlob
from donjon.repository.format.index_file import IndexedBlob, IndexedPack

u32 = st.integers(0, (1 << 32) - 1)
# Few ids, which share shelves and the bytes that shelves are sorted by: duplicates and near misses abound.
ids = st.sampled_from(
    [head + middle + tail for head in (b"\0", b"\xff") for middle in (b"\0" * 7, b"\x01" * 7) for tail in
     (b"\0" * 24, b"\0" * 23 + b"\x01", b"\x80" + b"\0" * 23)]
)  # fmt: skip
blobs = st.builds(PackedBlob, ids, st.sampled_from(BlobType), u32, u32, u32)
packs = st.tuples(st.integers(0, 3).map(lambda n: bytes([n]) * 32), st.lists(blobs, max_size=8))


def as_indexed(pack: bytes, blobs: list[PackedBlob]) -> IndexedPack:
    return IndexedPack(
        pack.hex(),
        [IndexedBlob(b.id.hex(), b.type.name.lower(), b.offset, b.length, b.uncompressed_length) for b in blobs],
    )


Model = dict[tuple[BlobType, bytes], list[Location]]
steps = st.lists(st.tuples(st.booleans(), packs), max_size=15)


def check(index: BlobIndex, model: Model, kind: BlobType, blob: bytes) -> None:
    places = model.get((kind, blob), [])
    assert sorted(index.locations(kind, blob)) == sorted(places)
    assert index.has(kind, blob) == bool(places)


@given(steps, ids, st.sampled_from(BlobType))
def test_it_finds_what_a_dict_finds(
    steps: list[tuple[bool, tuple[bytes, list[PackedBlob]]]], asked: bytes, kind: BlobType
) -> None:
    index, model = BlobIndex(), Model()
    for from_file, (pack, content) in steps:
        if from_file:
            index.load([as_indexed(pack, content)])
        else:
            index.add(pack, content)
        for blob in content:
            model.setdefault((blob.type, blob.id), []).append(Location(pack, *blob[2:]))
        check(index, model, kind, asked)  # also in between: asking sorts the shelves
    assert len(index) == sum(map(len, model.values()))
    for known in model:
        check(index, model, *known)


def test_a_shelf_that_outgrows_its_latest_arrivals_forgets_nothing() -> None:
    chance = random.Random(1)
    added = [PackedBlob(b"\x07" + chance.randbytes(31), BlobType.DATA, n, n + 1, n + 2) for n in range(1000)]
    index = BlobIndex()
    index.load([as_indexed(b"\1" * 32, added[:100])])
    for blob in added[100:]:
        index.add(b"\2" * 32, [blob])
    for number, blob in enumerate(added):
        pack = b"\1" * 32 if number < 100 else b"\2" * 32
        assert list(index.locations(BlobType.DATA, blob.id)) == [Location(pack, *blob[2:])]
        assert not index.has(BlobType.TREE, blob.id)
    assert index.packs == {b"\1" * 32, b"\2" * 32}


@pytest.mark.parametrize("asked", [10, 63, 64, 1000])
def test_what_is_missing_of_many_is_what_is_missing_of_each(asked: int) -> None:
    chance = random.Random(asked)
    content = [PackedBlob(chance.randbytes(32), chance.choice([*BlobType]), n, n + 1, 0) for n in range(1500)]
    index = BlobIndex()
    index.load([as_indexed(b"\1" * 32, content[:600])])
    index.load([as_indexed(b"\2" * 32, content[500:700])])
    index.add(b"\3" * 32, content[700:1200])
    for _ in range(2):
        chosen = chance.choices(content, k=asked)
        expected = [at for at, blob in enumerate(chosen) if not index.has(BlobType.DATA, blob.id)]
        assert expected
        assert index.missing(BlobType.DATA, b"".join(blob.id for blob in chosen)) == expected
        index.forget([b"\2" * 32])


@pytest.mark.parametrize("ids", ["", "00", "zz" * 32, "00" * 31 + "é" * 2, "0" * 63, "00" * 33])
def test_an_index_with_an_id_that_is_none_is_refused(ids: str) -> None:
    good = IndexedBlob("00" * 32, "data", 0, 40)
    for pack in (IndexedPack(ids, [good]), IndexedPack("00" * 32, [good, IndexedBlob(ids, "data", 0, 40)])):
        with pytest.raises(IntegrityError):
            BlobIndex().load([pack])


@pytest.mark.parametrize("number", [-1, 1 << 32, 1 << 70])
@pytest.mark.parametrize("field", ["offset", "length", "uncompressed_length"])
def test_an_index_with_a_number_out_of_bounds_is_refused(field: str, number: int) -> None:
    values = {"offset": 0, "length": 40, "uncompressed_length": 0, field: number}
    with pytest.raises(IntegrityError):
        BlobIndex().load([IndexedPack("00" * 32, [IndexedBlob("00" * 32, "data", **values)])])


def test_an_index_with_a_blob_of_unknown_type_is_refused() -> None:
    with pytest.raises(IntegrityError):
        BlobIndex().load([IndexedPack("00" * 32, [IndexedBlob("00" * 32, "leaf", 0, 40)])])
