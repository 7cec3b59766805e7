# SPDX-License-Identifier: Apache-2.0
"""A spool gives back what was put into it, in memory or not."""

from __future__ import annotations

import random
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.errors import HostError
from donjon.repository.spool import Spool

MIB = 1 << 20


@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(0, 1100), st.integers(0, 1100))
def test_any_stretch_reads_as_it_was_appended(parts: list[bytes], offset: int, length: int) -> None:
    with Spool() as spool:
        for part in parts:
            spool.append(part)
        whole = b"".join(parts)
        assert len(spool) == len(whole)
        assert spool.read(offset, length) == whole[offset : offset + length]
        assert b"".join(spool.parts(offset)) == whole[offset:]


@settings(max_examples=15)
@given(st.lists(st.integers(1, 3 * MIB), min_size=3, max_size=6), st.data())
def test_it_is_the_same_when_it_outgrows_memory(lengths: list[int], data: st.DataObject) -> None:
    whole = random.Random(len(lengths)).randbytes(sum(lengths))
    with Spool() as spool:
        at = 0
        for length in lengths:
            spool.append(memoryview(whole)[at : at + length])
            at += length
        assert len(spool) == len(whole)
        start = data.draw(st.integers(0, len(whole)))
        end = data.draw(st.integers(start, len(whole)))
        assert spool.read(start, end - start) == whole[start:end]
        pieces = list(spool.parts(start, end))
        assert b"".join(pieces) == whole[start:end]
        assert max(map(len, pieces), default=0) <= MIB


def temporary_files() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("donjon-*")}


def test_it_has_no_name_in_the_folder_for_temporary_files() -> None:
    before = temporary_files()
    with Spool() as spool:
        spool.append(bytes(9 * MIB))
        assert temporary_files() <= before
        assert spool.read(5 * MIB, 10 * MIB) == bytes(4 * MIB)


def test_a_file_that_cannot_grow_is_an_error_that_names_its_folder() -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Spool() as spool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, limits[1]))
        try:
            with pytest.raises(HostError, match=tempfile.gettempdir()) as caught:
                spool.append(bytes(5 * MIB))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "TMPDIR" in (caught.value.hint or "")
