# SPDX-License-Identifier: Apache-2.0
"""A file system that was made to do harm, or has come to harm, ends in an error, in time, and nowhere else."""

from __future__ import annotations

import os
import random
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from donjon.errors import DonjonError, HostError, IntegrityError
from donjon.guest_files.guest import GuestFiles
from donjon.guest_files.messages import Channel, Content, Done, Entry, FromReader, Read, Volume
from donjon.guest_files.sandbox import call_filter
from donjon.host_command import conversing, run
from tests.unit.guest_files.conftest import MemoryDisk, look, make_ext

FORBIDDEN = {
    "open a file": "open('/etc/passwd')",
    "make a socket": "import socket; socket.socket()",
    "start a program": "os.execv('/bin/true', ['true'])",
    "start a process": "os.fork()",
    "start a process the raw way": "call('clone', 0)",
    "start a process that shares memory": "call('clone', 0x100)",
    "signal others": "os.kill(os.getppid(), 0)",
    "become root again": "os.setuid(0)",
    "list a directory": "os.listdir('/')",
}


@pytest.mark.parametrize("deed", FORBIDDEN.values(), ids=FORBIDDEN)
def test_the_reader_may_not(deed: str) -> None:
    code = f"""
import ctypes, os, platform, socket
from donjon.guest_files.sandbox import shut_in
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *words):
    number = dict(clone=56 if platform.machine() == "x86_64" else 220)[name]
    if libc.syscall(number, *words, 0, 0, 0, 0) == -1:
        raise OSError(ctypes.get_errno(), name)
shut_in()
try:
    {deed}
except OSError as error:
    os.write(1, b"refused" if error.errno == 1 else str(error).encode())
"""
    assert run([sys.executable, "-c", code], timeout_s=30, check=False).stdout == b"refused"


def verdict(program: bytes, call: int, architecture: int, flags: int) -> int:
    """What the kernel makes of a system call by a filter of loads, comparisons and returns."""
    steps = list(struct.iter_unpack("=HBBI", program))
    data = struct.pack("=IIQQ", call, architecture, 0, flags)
    held = at = 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            held = int.from_bytes(data[value : value + 4], "little")
        else:
            at += yes if (held == value if code == 0x15 else held & value) else no


@pytest.mark.parametrize(
    ("machine", "architecture", "clone", "read"), [("x86_64", 0xC000003E, 56, 0), ("aarch64", 0xC00000B7, 220, 63)]
)
def test_only_threads_may_be_begun(machine: str, architecture: int, clone: int, read: int) -> None:
    program = call_filter(machine)
    refused, allowed = 0x00050001, 0x7FFF0000
    assert verdict(program, read, architecture, 0) == allowed
    for flags in (0, 17, 0x100, read, 0xFF):
        assert verdict(program, clone, architecture, flags) == refused
    assert verdict(program, clone, architecture, 0x10F00) == allowed
    assert verdict(program, 1000, architecture, 0) == refused
    assert verdict(program, read, architecture ^ 1, 0) == 0x80000000


def test_where_no_filter_is_known_nothing_is_read() -> None:
    with pytest.raises(HostError, match="riscv64"):
        call_filter("riscv64")


def test_the_reader_may_not_take_all_memory() -> None:
    code = """
import os
from donjon.guest_files.sandbox import shut_in
shut_in()
try:
    bytearray(2 << 30)
except MemoryError:
    os.write(1, b"refused")
"""
    assert run([sys.executable, "-c", code], timeout_s=30).stdout == b"refused"


def test_damaged_file_systems_end_in_order(tmp_path: Path, source: Path) -> None:
    """Whatever bits are flipped and wherever the disk ends, the answer is files, problems or one of our errors."""
    (source / "sparse").unlink()
    image = make_ext(tmp_path / "image", source, "-t", "ext4", "-b", "1024", "-O", "^has_journal", size=3 << 20)
    dice = random.Random(7)
    for _ in range(6):
        broken = bytearray(image[: dice.choice([len(image), dice.randrange(2048, len(image))])])
        for _ in range(200):
            at = dice.randrange(1024, min(len(broken), 120 << 10))
            broken[at] ^= 1 << dice.randrange(8)
        with suppress(DonjonError, FileNotFoundError):
            look([("vda", MemoryDisk(bytes(broken)))], "vda")


@contextmanager
def reader(code: str, patience_s: float = 30.0) -> Iterator[GuestFiles]:
    """A reader that has fallen to what it read, and does as it likes."""
    with conversing([sys.executable, "-c", code]) as (helper, into, out):
        os.set_blocking(into, False)
        channel = Channel(out, into, msgspec.msgpack.Decoder(FromReader), patience_s)
        yield GuestFiles(helper, channel, [MemoryDisk(bytes(100))], patience_s)


def test_a_reader_that_crashes_is_an_error_that_says_so() -> None:
    code = "import os, sys; sys.stderr.write('out of order'); sys.stderr.flush(); os.abort()"
    with reader(code) as guest, pytest.raises(HostError, match="out of order"):
        guest.open(["vda"], [])


ASKS_FOR_EVER = """
import os, msgspec
from donjon.guest_files.messages import Read
body = msgspec.msgpack.encode(Read(0, 0, 1))
while True:
    os.write(1, len(body).to_bytes(4, "big") + body)
"""


@pytest.mark.parametrize(
    "code",
    ["while True: pass", ASKS_FOR_EVER, ASKS_FOR_EVER + "    os.read(0, 64)"],
    ids=["computes", "floods", "asks"],
)
def test_a_reader_that_never_ends_is_an_error_in_time(code: str) -> None:
    with reader(code, 0.5) as guest, pytest.raises(HostError, match="stuck"):
        guest.open(["vda"], [])


def entry(**changes: object) -> Entry:
    known = {"path": ["a"], "mode": 0o100644, "uid": 0, "gid": 0, "size": 9, "mtime_ns": 0, "inode": 1, "links": 1}
    return Entry(**{**known, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        Read(1, 0, 1),
        Read(0, -1, 1),
        Read(0, 0, 1 << 30),
        Content(b"more than was announced"),
        entry(path=["..", "etc"]),
        entry(path=["a/b"]),
        entry(path=[""]),
        entry(size=-1),
        entry(ranges=[(5, 3), (6, 1)]),
        entry(ranges=[(0, 10)]),
        entry(mode=0o40755, ranges=[(0, 1)]),
        entry(target="a\0b"),
        Volume("vda", "ext", 0),
    ],
    ids=str,
)
def test_nothing_that_the_reader_says_is_taken_for_granted(message: msgspec.Struct) -> None:
    into, ours = os.pipe()
    devnull = os.open(os.devnull, os.O_WRONLY)
    said = b""
    for each in (message, Done()):
        body = msgspec.msgpack.encode(each)
        said += len(body).to_bytes(4, "big") + body
    os.write(ours, said)
    channel = Channel(into, devnull, msgspec.msgpack.Decoder(FromReader), 5.0)
    guest = GuestFiles(None, channel, [MemoryDisk(bytes(100))], 5.0)  # type: ignore[arg-type]
    try:
        with pytest.raises(IntegrityError, match="cannot be"):
            list(guest.walk("vda", []))
    finally:
        for descriptor in (into, ours, devnull):
            os.close(descriptor)
