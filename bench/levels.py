# SPDX-License-Identifier: Apache-2.0
"""What each compression level makes of a disk image's blocks: how small, and how fast on one core."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import zstandard
from primitives import BLOCK, blocks
from report import spread, table

from donjon.repository.format.compression import Compressor

ROUNDS = 3
Compress = Callable[[bytes], bytes | None]


def candidates() -> dict[str, Compress]:
    """zstd as it comes, and donjon's own use of it, which skips what does not compress."""
    plain = {f"zstd {level}": zstandard.ZstdCompressor(level=level).compress for level in (-1, 1, 2, 3, 5)}
    return {**plain, **{f"donjon, level {level}": Compressor(level).compress for level in (1, 2, 3, 5)}}


def distinct_blocks(image: Path, most: int) -> list[bytes]:
    """Blocks as a backup would compress them: each once, none of zeros; evenly picked if there are more than `most`."""
    seen = {hashlib.sha256(bytes(BLOCK)).digest()}
    offsets = list(blocks(image))
    found = []
    with image.open("rb", buffering=0) as source:
        for offset in offsets[:: -(-len(offsets) // most)]:
            block = os.pread(source.fileno(), BLOCK, offset)
            if (name := hashlib.sha256(block).digest()) not in seen:
                seen.add(name)
                found.append(block)
    return found


def try_all(parts: list[bytes]) -> list[list[str]]:
    """Rows of name, size as a share of the input, and MB/s of CPU time; the candidates take turns."""
    total = sum(map(len, parts))
    speeds: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for _ in range(ROUNDS):
        for name, compress in candidates().items():
            begin = time.process_time()
            sizes[name] = sum(min(len(compress(part) or part), len(part)) for part in parts)
            speeds.setdefault(name, []).append(total / 1e6 / (time.process_time() - begin))
    fastest = max(median(runs) for runs in speeds.values())
    return [
        [name, f"{sizes[name] / total:.4f}", spread(runs), f"{median(runs) / fastest:.2f}"]
        for name, runs in speeds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path, help="as image.py makes it, or any disk image")
    parser.add_argument("--mib", type=int, default=512, help="of distinct blocks, at most (default: 512)")
    options = parser.parse_args()
    parts = distinct_blocks(options.image, options.mib * (1 << 20) // BLOCK)
    print(table(["", "size", "MB/s", "speed, of the fastest"], try_all(parts)))


if __name__ == "__main__":
    main()
