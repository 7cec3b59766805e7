# SPDX-License-Identifier: Apache-2.0
"""Every format of image gives the bytes that QEMU gives, and tells the truth about holes and changes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from donjon.images import OpenImage, add_bitmap, open_image, probe
from donjon.model.extent import Extent, Kind, check_cover

KIB = 1024
MIB = 1024 * KIB
FEW = settings(max_examples=4, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
MORE = settings(FEW, max_examples=12)

CONVERTED: dict[str, Sequence[str]] = {
    "qcow2": ("-O", "qcow2"),
    "qcow2-v2": ("-O", "qcow2", "-o", "compat=0.10"),
    "qcow2-4k-clusters": ("-O", "qcow2", "-o", "cluster_size=4096"),
    "qcow2-zstd": ("-O", "qcow2", "-c", "-o", "compression_type=zstd"),
    "qcow2-extended-l2": ("-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k"),
    "qcow2-data-file": ("-O", "qcow2", "-o", "data_file=outside.raw"),
    "vmdk": ("-O", "vmdk"),
    "vmdk-stream": ("-O", "vmdk", "-o", "subformat=streamOptimized"),
    "vmdk-several-files": ("-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"),
    "vhdx": ("-O", "vhdx"),
    "vdi": ("-O", "vdi"),
    "vpc": ("-O", "vpc"),
}


class Area(NamedTuple):
    """Part of a disk, in bytes, and the byte it is filled with; 0 is a hole."""

    offset: int
    length: int
    fill: int


class Change(NamedTuple):
    """What a guest, or an administrator, does to a disk."""

    command: str
    offset: int
    length: int


def areas(size: int, unit: int = 4 * KIB) -> st.SearchStrategy[list[Area]]:
    count = size // unit
    place = st.tuples(st.integers(0, count - 1), st.integers(1, count // 3)).map(
        lambda at: (at[0] * unit, min(at[1], count - at[0]) * unit)
    )
    return st.lists(st.builds(lambda at, fill: Area(at[0], at[1], fill), place, st.integers(0, 255)), max_size=6)


def changes(size: int) -> st.SearchStrategy[list[Change]]:
    commands = st.sampled_from(["write -P 77", "write -z", "write -z -u", "discard", "shrink and grow"])
    return st.lists(
        st.builds(lambda area, command: Change(command, area.offset, area.length), areas(size).flatmap(_one), commands),
        min_size=1,
        max_size=5,
    )


def _one(found: list[Area]) -> st.SearchStrategy[Area]:
    return st.sampled_from(found or [Area(0, 64 * KIB, 1)])


def write_raw(path: Path, size: int, content: Iterable[Area]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for area in content:
            if area.fill:
                file.seek(area.offset)
                file.write(bytes([area.fill]) * area.length)


def qemu(*argv: str | Path) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True)


def truth(path: Path, image_format: str) -> bytes:
    out = path.with_suffix(".truth")
    qemu("qemu-img", "convert", "-f", image_format, "-O", "raw", path, out)
    return out.read_bytes()


def read_all(image: OpenImage) -> bytes:
    content = bytearray(image.size)
    image.read_into(0, memoryview(content))
    return bytes(content)


def check_extents(extents: Iterable[Extent], size: int, content: bytes) -> list[Extent]:
    known = list(check_cover(extents, size))
    for extent in known:
        if extent.kind is Kind.ZERO:
            assert not any(content[extent.offset : extent.end]), extent
    return known


def apply(path: Path, size: int, done: Iterable[Change]) -> None:
    commands: list[str] = []
    for change in done:
        if change.command == "shrink and grow":
            commands += [f"truncate {change.offset}", f"truncate {size}"]
        else:
            commands.append(f"{change.command} {change.offset} {change.length}")
    if commands:
        qemu("qemu-io", "-f", "qcow2", "-d", "unmap", *(word for command in commands for word in ("-c", command)), path)


@pytest.mark.parametrize("kind", CONVERTED)
@FEW
@given(content=areas(MIB))
def test_an_image_of_any_format_reads_as_qemu_reads_it(kind: str, content: list[Area]) -> None:
    with TemporaryDirectory() as folder:
        raw, path = Path(folder, "disk.raw"), Path(folder, "disk, of a kind")
        write_raw(raw, MIB, content)
        options = [word.replace("outside.raw", f"{folder}/outside.raw") for word in CONVERTED[kind]]
        qemu("qemu-img", "convert", "-f", "raw", *options, raw, path)
        expected = truth(path, options[1])
        info = probe(path, options[1])
        with open_image(info) as image:
            assert image.size == len(expected) == info.size
            assert read_all(image) == expected
            assert expected.startswith(raw.read_bytes())
            check_extents(image.extents(), image.size, expected)


@FEW
@given(content=areas(MIB), tail=st.integers(0, 1023))
def test_a_raw_image_of_any_size_reads_to_its_last_byte(content: list[Area], tail: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "disk.raw")
        write_raw(path, MIB + tail, content)
        expected = path.read_bytes()
        with open_image(probe(path, "raw")) as image:
            assert read_all(image) == expected
            check_extents(image.extents(), MIB + tail, expected)


@pytest.mark.parametrize("base", ["raw", "vmdk", "qcow2"])
@FEW
@given(below=areas(MIB), above=changes(MIB))
def test_a_chain_of_images_reads_as_one(base: str, below: list[Area], above: list[Change]) -> None:
    with TemporaryDirectory() as folder:
        bottom, middle, top = _chain(Path(folder), base, below)
        apply(middle, MIB, above[::2])
        apply(top, MIB, above[1::2])
        expected = truth(top, "qcow2")
        info = probe(top)
        assert [layer.path for layer in info.chain] == [str(top), str(middle), str(bottom)]
        with open_image(info) as image:
            assert read_all(image) == expected
            check_extents(image.extents(), image.size, expected)


@pytest.mark.parametrize("options", ["cluster_size=65536", "cluster_size=4096", "extended_l2=on,cluster_size=128k"])
@MORE
@given(before=areas(MIB), after=changes(MIB))
def test_what_is_called_clean_is_as_it_was(options: str, before: list[Area], after: list[Change]) -> None:
    with TemporaryDirectory() as folder:
        raw, path = Path(folder, "disk.raw"), Path(folder, "disk.qcow2")
        write_raw(raw, MIB, before)
        qemu("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", options, raw, path)
        _check_incremental(path, after)


@FEW
@given(before=areas(MIB), after=changes(MIB))
def test_what_is_called_clean_is_as_it_was_over_backing_files(before: list[Area], after: list[Change]) -> None:
    with TemporaryDirectory() as folder:
        _, _, top = _chain(Path(folder), "raw", before)
        _check_incremental(top, after)


def test_only_what_changed_is_not_clean(tmp_path: Path) -> None:
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    write_raw(raw, 4 * MIB, [Area(0, 3 * MIB, 7)])
    qemu("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
    add_bitmap(str(path), "since")
    apply(path, 4 * MIB, [Change("write -P 1", MIB, 64 * KIB), Change("write -z -u", 2 * MIB, 128 * KIB)])
    with open_image(probe(path), base_bitmap="since") as image:
        assert list(image.extents()) == [
            Extent(0, MIB, Kind.CLEAN),
            Extent(MIB, 64 * KIB, Kind.DATA),
            Extent(MIB + 64 * KIB, MIB - 64 * KIB, Kind.CLEAN),
            Extent(2 * MIB, 128 * KIB, Kind.ZERO),
            Extent(2 * MIB + 128 * KIB, MIB - 128 * KIB, Kind.CLEAN),
            Extent(3 * MIB, MIB, Kind.ZERO),
        ]


def _chain(folder: Path, base: str, below: list[Area]) -> tuple[Path, Path, Path]:
    raw, bottom, middle, top = (folder / name for name in ("disk.raw", "bottom", "middle", "top"))
    write_raw(raw, MIB, below)
    qemu("qemu-img", "convert", "-f", "raw", "-O", base, raw, bottom)
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-F", base, "-b", bottom, middle)
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "middle", top)
    return bottom, middle, top


def _check_incremental(path: Path, after: list[Change]) -> None:
    """Old content where CLEAN, zeros where ZERO, read where DATA: together the new content."""
    add_bitmap(str(path), "since")
    old = truth(path, "qcow2")
    apply(path, len(old), after)
    new = truth(path, "qcow2")
    with open_image(probe(path), base_bitmap="since") as image:
        restored = bytearray(old)
        for extent in check_extents(image.extents(), len(new), new):
            if extent.kind is Kind.DATA:
                image.read_into(extent.offset, memoryview(restored)[extent.offset : extent.end])
            elif extent.kind is Kind.ZERO:
                restored[extent.offset : extent.end] = bytes(extent.length)
        assert restored == new
