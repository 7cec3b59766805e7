# SPDX-License-Identifier: Apache-2.0
"""What an image is, is found out without trusting it, and what stands in the way is said clearly."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.images import add_bitmap, can_have_bitmaps, in_use, open_image, probe


def qemu(*argv: str | Path) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True)


def test_a_raw_image_is_not_taken_for_what_its_guest_wrote_into_it(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", path, "64M")
    info = probe(path, "raw")
    assert (info.format, info.size) == ("raw", path.stat().st_size)
    assert probe(path).format == "qcow2"


def test_an_undeclared_raw_image_keeps_its_exact_size(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 1000)
    assert (probe(path).format, probe(path).size) == ("raw", 1000)


def test_everything_an_image_is_made_of_is_stamped(tmp_path: Path) -> None:
    qemu("qemu-img", "create", "-q", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentFlat", tmp_path / "v.vmdk", "1M")
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-F", "vmdk", "-b", "v.vmdk", tmp_path / "top")
    info = probe(tmp_path / "top", "qcow2")
    assert [stamp.path for stamp in info.stamps] == [str(tmp_path / name) for name in ("top", "v.vmdk", "v-f001.vmdk")]


def test_the_options_of_a_qcow2_image_are_known(tmp_path: Path) -> None:
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", tmp_path / "disk", "1M")
    assert probe(tmp_path / "disk").options == {
        "compat": "1.1",
        "cluster_size": "4096",
        "refcount_bits": "16",
        "lazy_refcounts": "off",
        "extended_l2": "off",
        "compression_type": "zlib",
    }


def _missing(folder: Path) -> None: ...


def _directory(folder: Path) -> None:
    (folder / "disk").mkdir()


def _rubbish(folder: Path) -> None:
    (folder / "disk").write_bytes(b"rubbish" * 100)


def _orphan(folder: Path) -> None:
    qemu("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "gone", folder / "disk", "1M")


def _encrypted(folder: Path) -> None:
    options = "encrypt.format=aes,encrypt.key-secret=s"
    secret = ("--object", "secret,id=s,data=x")
    qemu("qemu-img", "create", "-q", *secret, "-f", "qcow2", "-o", options, folder / "disk", "1M")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "disk")


@pytest.mark.parametrize(
    ("make", "image_format", "sentence"),
    [
        (_missing, None, "it does not exist"),
        (_directory, "raw", "it is a directory"),
        (_pipe, "raw", "it is neither a file nor a block device"),
        (_rubbish, "qcow2", "Image is not in qcow2 format"),
        (_rubbish, "nbd", "donjon knows no format 'nbd'"),
        (_orphan, "qcow2", "its backing file .*/gone cannot be opened: No such file or directory"),
        (_encrypted, None, "is encrypted by QEMU"),
    ],
)
def test_what_stands_in_the_way_is_a_clear_sentence(
    make: Callable[[Path], None], image_format: str | None, sentence: str, tmp_path: Path
) -> None:
    make(tmp_path)
    with pytest.raises(HostError, match=f"^cannot read image {tmp_path}/disk: .*{sentence}"):
        probe(tmp_path / "disk", image_format)


def test_an_image_that_a_guest_writes_to_is_in_use(tmp_path: Path) -> None:
    path, socket = tmp_path / "disk", tmp_path / "socket"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", path, "1M")
    assert not in_use(path)
    with subprocess.Popen(["qemu-nbd", "-f", "qcow2", "-k", socket, path]) as guest:
        deadline = time.monotonic() + 20
        while not in_use(path):
            assert time.monotonic() < deadline, "never in use"
            time.sleep(0.01)
        with pytest.raises(HostError, match='Failed to get shared "write" lock'), open_image(probe(path)):
            pass
        with open_image(probe(path), force_share=True) as image:
            assert image.size == 1024 * 1024
        guest.terminate()
    assert not in_use(path)


def test_an_image_over_a_server_that_is_gone_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    behind = {"driver": "nbd", "export": "vda", "server": {"type": "unix", "path": str(tmp_path / "socket")}}
    backing = "json:" + json.dumps({"driver": "raw", "file": behind})
    qemu("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, path, "1M")
    with pytest.raises(HostError, match=f"cannot read image {path}: the NBD server .* No such file") as error:
        probe(path, "qcow2")
    assert "--resume" in (error.value.hint or "")
    (tmp_path / "content").write_bytes(b"x" * 1024 * 1024)
    argv: list[str | Path] = [
        "qemu-nbd",
        "-r",
        "-t",
        "-f",
        "raw",
        "-x",
        "vda",
        "-k",
        tmp_path / "socket",
        tmp_path / "content",
    ]
    with subprocess.Popen(argv) as server:
        deadline = time.monotonic() + 20
        while not (tmp_path / "socket").exists():
            assert time.monotonic() < deadline, "never there"
            time.sleep(0.01)
        with open_image(probe(path, "qcow2")) as image:
            content = memoryview(bytearray(image.size))
            image.read_into(0, content)
        server.terminate()
    assert content == b"x" * 1024 * 1024


@pytest.mark.parametrize(("permission", "writing"), [(0, False), (1, True), (3, False)])
def test_only_the_permission_to_write_counts_as_use(tmp_path: Path, permission: int, writing: bool) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"")
    with path.open("rb") as other:
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 100 + permission, 1, 0)
        fcntl.fcntl(other, fcntl.F_OFD_SETLK, lock)
        assert in_use(path) is writing


def test_reading_is_no_use_that_stands_in_the_way(tmp_path: Path) -> None:
    qemu("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk", "1M")
    with open_image(probe(tmp_path / "disk")):
        assert not in_use(tmp_path / "disk")


def test_a_raw_image_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 4096)
    sentence = "cannot read .*disk at offset 1000: it has become shorter"
    with pytest.raises(HostError, match=sentence), open_image(probe(path, "raw")) as image:
        os.truncate(path, 1000)
        image.read_into(0, memoryview(bytearray(4096)))


def test_an_image_of_the_old_version_cannot_keep_a_bitmap(tmp_path: Path) -> None:
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", tmp_path / "old", "1M")
    assert not can_have_bitmaps(probe(tmp_path / "old"))
    with pytest.raises(HostError, match=f"cannot track changes of {tmp_path}/old: .*qcow2 v2"):
        add_bitmap(tmp_path / "old", "since")
