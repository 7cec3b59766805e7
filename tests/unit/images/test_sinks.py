# SPDX-License-Identifier: Apache-2.0
"""A restored disk appears whole, durable and sparse, or not at all, and replaces nothing unasked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from donjon.errors import ConfigError, HostError, IntegrityError, RefusedError
from donjon.images import BlockSink, open_image, open_sink, open_stdout_sink, probe

MIB = 1024 * 1024
SIZE = 8 * MIB
CONTENT = os.urandom(MIB) + bytes(3 * MIB) + os.urandom(3 * MIB) + bytes(MIB)


def fill(sink: BlockSink, content: bytes = CONTENT) -> None:
    """By several threads, last blocks first; only zeros are said to be zero."""

    def put(at: int) -> None:
        block = content[at : at + MIB]
        if any(block):
            sink.write(at, memoryview(block))
        else:
            sink.zero(at, len(block))

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(put, reversed(range(0, len(content), MIB))))


def read_back(path: Path, image_format: str) -> bytes:
    with open_image(probe(path, image_format)) as image:
        content = bytearray(image.size)
        image.read_into(0, memoryview(content))
        return bytes(content)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_what_is_written_is_read_back_and_holes_take_no_room(tmp_path: Path, image_format: str) -> None:
    path = tmp_path / "disk, a 'new' one"
    with open_sink(path, image_format, SIZE) as sink:
        fill(sink)
        assert not path.exists()
    assert read_back(path, image_format) == CONTENT
    assert path.stat().st_blocks * 512 < 5 * MIB
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_raw_disk_of_odd_size_is_exact_and_as_qcow2_padded_with_zeros(tmp_path: Path) -> None:
    content = CONTENT[:MIB] + b"odd"
    for image_format in ("raw", "qcow2"):
        with open_sink(tmp_path / image_format, image_format, len(content)) as sink:
            fill(sink, content)
    assert read_back(tmp_path / "raw", "raw") == content
    assert read_back(tmp_path / "qcow2", "qcow2") == content + bytes(509)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_a_qcow2_image_is_like_the_original(tmp_path: Path, compat: str) -> None:
    original, restored = tmp_path / "original", tmp_path / "restored"
    options = f"compat={compat},cluster_size=4096"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, original, "1M"], check=True)
    wanted = probe(original).options
    with open_sink(restored, "qcow2", MIB, options={**wanted, "subformat": "of another format"}):
        pass
    assert probe(restored).options == wanted


@pytest.mark.parametrize("value", ["1.1,backing_file=/etc/passwd,backing_fmt=raw", "", "on ", "1.1\n", "a=b"])
def test_an_option_from_outside_brings_no_other_with_it(tmp_path: Path, value: str) -> None:
    with pytest.raises(IntegrityError, match="compat"), open_sink(tmp_path / "disk", "qcow2", MIB, {"compat": value}):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_an_existing_file_is_replaced_only_if_asked_and_only_by_a_whole_one(tmp_path: Path, image_format: str) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"precious")
    path.chmod(0o640)
    with pytest.raises(RefusedError, match="it exists"), open_sink(path, image_format, SIZE):
        pass
    with pytest.raises(ZeroDivisionError), open_sink(path, image_format, SIZE, exist_ok=True) as sink:
        fill(sink)
        raise ZeroDivisionError
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"precious", [path])
    with open_sink(path, image_format, SIZE, exist_ok=True) as sink:
        fill(sink)
    assert read_back(path, image_format) == CONTENT
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with pytest.raises(RefusedError, match="it exists by now"), open_sink(path, "raw", SIZE):
        path.write_bytes(b"precious")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"precious", [path])


def test_a_disk_cannot_go_where_it_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not vmdk"), open_sink(tmp_path / "disk", "vmdk", SIZE):
        pass
    with pytest.raises(HostError, match="there is no directory"), open_sink(tmp_path / "no/disk", "raw", SIZE):
        pass
    with pytest.raises(RefusedError, match="it is a directory"), open_sink(tmp_path, "raw", SIZE, exist_ok=True):
        pass


def test_standard_output_gets_every_byte_in_order(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with open_stdout_sink(4 * MIB) as sink:
        sink.write(0, CONTENT[:MIB])
        sink.zero(MIB, 3 * MIB)
        with pytest.raises(ValueError, match="in order"):
            sink.write(0, b"again")
    assert capfdbinary.readouterr().out == CONTENT[: 4 * MIB]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xff" * SIZE)
    made = subprocess.run(["losetup", "--find", "--show", backing], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop devices: {made.stderr.strip()}")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@pytest.mark.root
def test_what_a_device_held_is_overwritten_zeros_included(device: Path) -> None:
    with open_sink(device, "raw", SIZE) as sink:
        fill(sink, CONTENT[: 6 * MIB])
        sink.zero(6 * MIB, 100)
        sink.write(6 * MIB + 100, b"x" * 1000)
        sink.zero(6 * MIB + 1100, 2 * MIB - 1100)
    assert read_back(device, "raw") == CONTENT[: 6 * MIB] + bytes(100) + b"x" * 1000 + bytes(2 * MIB - 1100)


@pytest.mark.root
def test_a_device_that_is_too_small_is_refused_untouched(device: Path) -> None:
    sentence = f"the device has {SIZE} bytes, the disk {SIZE + 1}"
    with pytest.raises(RefusedError, match=sentence), open_sink(device, "raw", SIZE + 1):
        pass
    assert read_back(device, "raw") == b"\xff" * SIZE


def test_the_longest_name_a_file_can_have_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with open_sink(path, "raw", len(CONTENT)) as sink:
        fill(sink)
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
