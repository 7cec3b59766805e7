# SPDX-License-Identifier: Apache-2.0
"""What no tool of this kind can do without, timed on the same bytes: one thread, CPU seconds per step.

Per 512 KiB block: read it, hash it; if it has not been seen before compress it and seal the smaller of the two
(AES-256-CTR, Poly1305), hash what goes out, write it; fsync at the end of every 64 MiB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305
from sparse import data_extents

from donjon.repository.format.compression import Compressor

BLOCK = 512 << 10
FLUSH_EVERY = 64 << 20


def blocks(image: Path) -> Iterator[int]:
    """Offsets of the blocks of which some part is allocated."""
    last = -1
    for start, length in data_extents(image):
        for block in range(max(start // BLOCK, last + 1), (start + length - 1) // BLOCK + 1):
            last = block
            yield block * BLOCK


class Stopwatch:
    """Adds up the CPU seconds of each step."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}

    @contextmanager
    def timing(self, step: str) -> Iterator[None]:
        begin = time.process_time()
        yield
        self.cpu_s[step] = self.cpu_s.get(step, 0.0) + time.process_time() - begin


def seal(plaintext: bytes | memoryview) -> bytes:
    """Encrypt and authenticate, as the repository format demands; the keys do not matter here."""
    cipher = Cipher(algorithms.AES(b"k" * 32), modes.CTR(os.urandom(16))).encryptor()
    ciphertext = cipher.update(plaintext)
    return ciphertext + Poly1305.generate_tag(b"p" * 32, ciphertext)


def run(image: Path, output: Path, level: int) -> dict[str, float]:
    """CPU seconds per step."""
    watch, compressor, seen = Stopwatch(), Compressor(level), {hashlib.sha256(bytes(BLOCK)).digest()}
    whole, outgoing, unflushed = memoryview(bytearray(BLOCK)), hashlib.sha256(), 0
    with image.open("rb", buffering=0) as source, output.open("wb", buffering=0) as target:
        for offset in blocks(image):
            with watch.timing("read"):
                block = whole[: os.preadv(source.fileno(), [whole], offset)]
            with watch.timing("SHA-256 of blocks"):
                name = hashlib.sha256(block).digest()
            if name in seen:
                continue
            seen.add(name)
            with watch.timing("zstd"):
                compressed = compressor.compress(block)
            with watch.timing("AES-CTR and Poly1305"):
                sealed = seal(compressed or block)
            with watch.timing("SHA-256 of output"):
                outgoing.update(sealed)
            with watch.timing("write and fsync"):
                unflushed = (unflushed + target.write(sealed)) % FLUSH_EVERY
                if unflushed < len(sealed):
                    os.fsync(target.fileno())
        with watch.timing("write and fsync"):
            os.fsync(target.fileno())
    return watch.cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("output", type=Path, help="scratch file")
    parser.add_argument("--level", type=int, default=1, help="of zstd (default: donjon's)")
    options = parser.parse_args()
    print(json.dumps(run(options.image, options.output, options.level)))


if __name__ == "__main__":
    main()
