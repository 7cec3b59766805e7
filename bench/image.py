# SPDX-License-Identifier: Apache-2.0
"""Makes the disk image the benchmarks work on, and a change of one per cent to it."""

from __future__ import annotations

import argparse
import json
import os
import stat
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sparse import data_extents, digest

Bytes = npt.NDArray[np.uint8]

PAGE = 4096
UNIT = 1 << 16
CLUSTER = 4 << 20
LARGEST = 64 << 20
STEP = 4 << 20
LINE = 128
ALLOCATED = 0.65
CODE_FOLDERS = (Path("/usr/bin"), Path("/usr/lib"))


class Kind(Enum):
    """What a region of the image holds."""

    LOG = "log"
    TEXT = "text"
    CODE = "code"
    RANDOM = "random"
    ZERO = "zero"
    COPY = "copy"
    HOLE = "hole"


SHARES = {Kind.LOG: 0.15, Kind.TEXT: 0.12, Kind.CODE: 0.35, Kind.RANDOM: 0.28, Kind.ZERO: 0.05, Kind.COPY: 0.05}
"""Of what is allocated."""


class Region(NamedTuple):
    """A stretch of the image with one kind of content, in bytes; whole pages."""

    offset: int
    length: int
    kind: Kind


def plan_image(size: int, rng: np.random.Generator) -> list[Region]:
    """Regions of 64 KiB to 64 MiB that tile the image, in random order, in the proportions of SHARES."""
    largest = min(max(size // 96, 1 << 20), LARGEST)
    pieces = [
        (kind, length)
        for kind, share in SHARES.items()
        for length in _cut(
            int(size * ALLOCATED * share), min(CLUSTER, largest) if kind is Kind.COPY else UNIT, largest, rng
        )
    ]
    pieces += [(Kind.HOLE, length) for length in _cut(size - sum(length for _, length in pieces), UNIT, largest, rng)]
    regions, offset = [], 0
    for index in rng.permutation(len(pieces)):
        kind, length = pieces[index]
        regions.append(Region(offset, length, kind))
        offset += length
    return regions


def _cut(total: int, smallest: int, largest: int, rng: np.random.Generator) -> Iterator[int]:
    """Lengths in whole pages, evenly spread over the orders of magnitude, that add up to `total`."""
    left = total // PAGE * PAGE
    while left:
        length = int(smallest * (largest / smallest) ** rng.random()) // PAGE * PAGE
        yield min(length, left)
        left -= min(length, left)


class Content:
    """Produces bytes of each kind; every call goes on where the last one ended."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._letters = np.frombuffer(b"eeeeeetttttaaaaooooiiiinnnnsssshhhrrrdddlllcuummwwffgyypbvk", np.uint8)
        self._words = self._vocabulary()
        self._lines = self._templates()
        self._second = 1_700_000_000
        self._code = _system_files()
        self._rest = b""

    def produce(self, kind: Kind, length: int) -> bytes:
        match kind:
            case Kind.LOG:
                return self.log(length).tobytes()
            case Kind.TEXT:
                return self.text(length)
            case Kind.CODE:
                return self.code(length)
            case Kind.RANDOM:
                return self._rng.bytes(length)
            case _:
                return bytes(length)

    def text(self, length: int) -> bytes:
        """Words of a made-up language, the frequent ones frequent (log-uniform rank, much as Zipf's law)."""
        ranks = (len(self._words) ** self._rng.random(length // 4)).astype(np.int32)
        return b"".join(map(self._words.__getitem__, ranks.tolist()))[:length].ljust(length)

    def log(self, length: int) -> Bytes:
        """Lines of 128 bytes, of 200 sorts, each with a time that goes on, a process, a request id and a size."""
        count = -(-length // LINE)
        lines = self._lines[self._rng.integers(0, len(self._lines), count)]
        times = self._second + np.cumsum(self._rng.integers(0, 2, count))
        self._second = int(times[-1])
        lines[:, 0:10] = _digits(times, 10)
        lines[:, 11:14] = _digits(self._rng.integers(0, 1000, count), 3)
        lines[:, 15:20] = _digits(self._rng.integers(1, 400, count) * 37, 5)
        lines[:, 21:29] = np.frombuffer(b"0123456789abcdef", np.uint8)[self._rng.integers(0, 16, (count, 8), np.uint8)]
        lines[:, 30:36] = _digits((10 ** (6 * self._rng.random(count))).astype(np.int64), 6)
        return lines.reshape(-1)[:length]

    def code(self, length: int) -> bytes:
        """Programs and libraries of this machine, one after the other."""
        parts, missing = [self._rest[:length]], length - len(self._rest)
        self._rest = self._rest[length:]
        while missing > 0:
            file = next(self._code)
            parts.append(file[:missing])
            self._rest = file[missing:]
            missing -= len(file)
        return b"".join(parts)

    def _vocabulary(self) -> list[bytes]:
        lengths = self._rng.integers(2, 12, 30_000)
        ends = np.where(self._rng.random(30_000) < 0.08, b"\n", b" ")
        return [
            self._rng.choice(self._letters, length).tobytes() + bytes(end)
            for length, end in zip(lengths.tolist(), ends.tolist(), strict=True)
        ]

    def _templates(self) -> Bytes:
        lines = np.full((200, LINE), ord(" "), np.uint8)
        for line in lines:
            line[37 : LINE - 1] = np.frombuffer(self.text(LINE - 38).replace(b"\n", b" "), np.uint8)
        lines[:, LINE - 1] = ord("\n")
        return lines


def _digits(values: npt.NDArray[np.int64], count: int) -> Bytes:
    return (values[:, None] // 10 ** np.arange(count - 1, -1, -1) % 10 + ord("0")).astype(np.uint8)


def _system_files() -> Iterator[bytes]:
    """Contents of this machine's programs, by path, for ever; from the second time on with every 61st byte altered,
    so that they compress as before and yet repeat nothing."""
    for lap in range(256):
        for folder in CODE_FOLDERS:
            for path in sorted(folder.rglob("*")):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_size >= PAGE:
                    content = np.fromfile(path, np.uint8)
                    content[::61] += np.uint8(lap)
                    yield content.tobytes()


def create(path: Path, size: int, seed: int) -> None:
    """Write the image. Zeros are really written; copies repeat what lies anywhere else in it.

    Three copies in four lie at the same place within 4 MiB as what they copy (a reflink, an aligned file), one is
    merely aligned to pages: only content-defined chunks find that one.
    """
    rng = np.random.Generator(np.random.SFC64(seed))
    regions, content = plan_image(size, rng), Content(rng)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "r+b", buffering=0):
        os.ftruncate(fd, size)
        for region in sorted(regions, key=lambda region: region.kind is Kind.COPY):
            if region.kind is Kind.HOLE:
                continue
            source = _source_of(region, size, rng)
            for at in range(0, region.length, STEP):
                length = min(STEP, region.length - at)
                copying = region.kind is Kind.COPY
                part = os.pread(fd, length, source + at) if copying else content.produce(region.kind, length)
                os.pwrite(fd, part, region.offset + at)
        os.fsync(fd)


def _source_of(region: Region, size: int, rng: np.random.Generator) -> int:
    """Offset a copy is taken from."""
    shift = 0 if rng.random() < 0.75 else PAGE
    slots = (size - region.length) // CLUSTER - 1
    return int(rng.integers(0, slots)) * CLUSTER + region.offset % CLUSTER + shift


def change(path: Path, percent: float, seed: int, folder: Path) -> None:
    """Overwrite units of 64 KiB, chosen at random among the allocated ones: one half with noise, one with text.

    Leaves in `folder` what each unit held before and holds after (OFFSET.before, OFFSET.after), and in extents.json
    the offsets, and the SHA-256 of the image before and after.
    """
    rng = np.random.Generator(np.random.SFC64([seed, 1]))
    content = Content(rng)
    units = [
        unit
        for start, length in data_extents(path)
        for unit in range(-(-start // UNIT) * UNIT, start + length - UNIT + 1, UNIT)
    ]
    chosen = sorted(rng.choice(units, max(1, round(len(units) * percent / 100)), replace=False).tolist())
    folder.mkdir(parents=True)
    before = digest(path)
    with path.open("r+b", buffering=0) as image:
        for index, offset in enumerate(chosen):
            after = content.produce(Kind.RANDOM if index % 2 else Kind.TEXT, UNIT)
            (folder / f"{offset}.before").write_bytes(os.pread(image.fileno(), UNIT, offset))
            (folder / f"{offset}.after").write_bytes(after)
            os.pwrite(image.fileno(), after, offset)
        os.fsync(image.fileno())
    facts = {"unit": UNIT, "extents": [[offset, UNIT] for offset in chosen], "before": before, "after": digest(path)}
    (folder / "extents.json").write_text(json.dumps(facts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("create", help="write a new image")
    make.add_argument("--gib", type=float, default=6.0, help="its size (default: 6)")
    alter = verbs.add_parser("change", help="change part of an image in place")
    alter.add_argument("--percent", type=float, default=1.0, help="of its allocated units of 64 KiB (default: 1)")
    alter.add_argument("--units", type=Path, required=True, help="new folder for what was and what is")
    for verb in (make, alter):
        verb.add_argument("image", type=Path)
        verb.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.verb == "create":
        create(options.image, int(options.gib * 1024) << 20, options.seed)
    else:
        change(options.image, options.percent, options.seed, options.units)


if __name__ == "__main__":
    main()
