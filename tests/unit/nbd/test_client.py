# SPDX-License-Identifier: Apache-2.0
"""A disk served by qemu-nbd can be read and written by several threads, in pieces of any size."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.images.qemu_nbd import exported
from donjon.nbd.client import NbdClient
from donjon.nbd.protocol import Status

MIB = 1024 * 1024
SIZE = 16 * MIB


@pytest.fixture
def client(tmp_path: Path) -> Iterator[NbdClient]:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk", str(SIZE)], check=True)
    options = ("--format", "qcow2", "--discard", "unmap")
    with exported(str(tmp_path / "disk"), *options, contexts=["base:allocation"]) as client:
        yield client


def read(client: NbdClient, offset: int, length: int) -> bytes:
    content = bytearray(length)
    client.read_into(offset, memoryview(content))
    return bytes(content)


def test_threads_read_what_threads_wrote(client: NbdClient) -> None:
    content = os.urandom(SIZE)
    step = 3 * MIB + 512
    places = range(0, SIZE, step)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda at: client.write(at, memoryview(content)[at : at + step]), places))
        client.flush()
        pieces = threads.map(lambda at: read(client, at, min(step, SIZE - at)), places)
        assert b"".join(pieces) == content


def test_what_was_never_written_is_zeros_and_known_to_be(client: NbdClient) -> None:
    client.write(0, memoryview(b"x" * MIB))
    assert read(client, MIB - 1, 3) == b"x\0\0"
    assert list(client.block_status()) == [Status(0, MIB, (0,)), Status(MIB, SIZE - MIB, (3,))]


def test_a_refused_request_is_an_error_and_the_disk_stays_usable(client: NbdClient) -> None:
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda at: read(client, at, MIB), range(0, 4 * MIB, MIB)))
    with pytest.raises(HostError, match=f"cannot access .*disk at offset {SIZE}"):
        read(client, SIZE, 512)


def test_a_bitmap_that_is_not_there_is_an_error_in_qemus_words(tmp_path: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk", "1M"], check=True)
    export = exported(str(tmp_path / "disk"), "-r", "-f", "qcow2", "-B", "none")
    with pytest.raises(HostError, match="Bitmap 'none' is not found"), export:
        pass


def test_nobody_listening_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot reach an NBD server"):
        NbdClient.connect_unix(tmp_path / "socket")
