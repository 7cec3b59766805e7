# SPDX-License-Identifier: Apache-2.0
"""What an index of ten million blobs costs: memory, CPU time to load and to look up a blob that is there or is not."""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from pathlib import Path
from statistics import median

from donjon.repository.blob_index import BlobIndex
from donjon.repository.format.blob import BlobType
from donjon.repository.format.index_file import IndexedBlob, IndexedPack

BLOBS_PER_FILE = 50_000
BLOBS_PER_PACK = 64
LOOKUPS = 20_000
SEALED_LENGTH = 200_000


def index_file(blobs: int, source: random.Random) -> list[IndexedPack]:
    """What one index file of a repository says, with made-up ids."""
    return [
        IndexedPack(
            source.randbytes(32).hex(),
            [
                IndexedBlob(source.randbytes(32).hex(), "data", slot * SEALED_LENGTH, SEALED_LENGTH, 512 << 10)
                for slot in range(min(BLOBS_PER_PACK, blobs - first))
            ],
        )
        for first in range(0, blobs, BLOBS_PER_PACK)
    ]


def resident_bytes() -> int:
    """Memory this process has now. Source: proc(5), /proc/PID/statm."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def lookup_us(index: BlobIndex, ids: list[bytes], present: bool) -> float:
    """Microseconds of CPU per look-up; every answer is checked."""
    begin = time.process_time()
    found = [index.has(BlobType.DATA, blob) for blob in ids]
    elapsed = time.process_time() - begin
    if found != [present] * len(ids):
        raise SystemExit("bench: the index gave a wrong answer")
    return elapsed / len(ids) * 1e6


def measure(blobs: int) -> dict[str, float]:
    """Loads file by file, as opening a repository does; making up the files is not timed."""
    source, index = random.Random(1), BlobIndex()
    before, load_s, known = resident_bytes(), 0.0, []
    for first in range(0, blobs, BLOBS_PER_FILE):
        packs = index_file(min(BLOBS_PER_FILE, blobs - first), source)
        known += [bytes.fromhex(pack.blobs[0].id) for pack in packs]
        begin = time.process_time()
        index.load(packs)
        load_s += time.process_time() - begin
    del packs
    begin = time.process_time()
    index.sort()
    load_s += time.process_time() - begin
    chosen = source.sample(known, min(LOOKUPS, len(known)))
    hits = [lookup_us(index, chosen, present=True) for _ in range(3)]
    strangers = [source.randbytes(32) for _ in range(LOOKUPS)]
    misses = [lookup_us(index, strangers, present=False) for _ in range(3)]
    return {
        "blobs": len(index),
        "rss_bytes": resident_bytes() - before,
        "load_s": load_s,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
        "hit_us": median(hits),
        "miss_us": median(misses),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blobs", type=int, default=10_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.blobs)
    if options.json:
        print(json.dumps(figures))
    else:
        print(
            f"{figures['blobs']:,} blobs: {figures['rss_bytes'] / (1 << 20):.0f} MiB, at most"
            f" {figures['peak_bytes'] / (1 << 20):.0f} MiB while loading, which took {figures['load_s']:.1f} s"
            f" of CPU; hit {figures['hit_us']:.1f} us, miss {figures['miss_us']:.1f} us"
        )


if __name__ == "__main__":
    main()
