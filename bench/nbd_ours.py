# SPDX-License-Identifier: Apache-2.0
"""donjon's NBD client and server as programs: `read SOCKET`, `digest SOCKET`, `serve SOCKET FILE`."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from donjon.nbd.client import CONNECTIONS, NbdClient
from donjon.nbd.protocol import Allocation
from donjon.nbd.server import ALLOCATION, NbdServer

PIECE = 4 << 20


class FileExport:
    """A raw image, and what the file system says of its holes. Source: lseek(2)."""

    read_only = True
    contexts = (ALLOCATION,)

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._fd).st_size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        while buffer:
            got = os.preadv(self._fd, [buffer], offset)
            if not got:
                raise OSError(errno.EIO, "the file has been cut short")
            buffer, offset = buffer[got:], offset + got

    def block_status(self, context: str, offset: int, length: int) -> Iterator[tuple[int, int]]:  # noqa: ARG002
        end = offset + length
        while offset < end:
            data = self._seek(offset, os.SEEK_DATA)
            if data > offset:
                yield data - offset, Allocation.HOLE | Allocation.ZERO
            if data < end:
                hole = self._seek(data, os.SEEK_HOLE)
                yield hole - data, 0
                data = hole
            offset = data

    def _seek(self, offset: int, whence: int) -> int:
        try:
            return os.lseek(self._fd, offset, whence)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return self.size


def data_pieces(client: NbdClient) -> Iterator[tuple[int, int]]:
    """Offset and length of what is not known to be zero."""
    for status in client.block_status():
        if not status.flags[0] & Allocation.ZERO:
            for at in range(status.offset, status.offset + status.length, PIECE):
                yield at, min(PIECE, status.offset + status.length - at)


def read_all(client: NbdClient) -> int:
    """How many bytes were read, several pieces at a time."""
    buffers: SimpleQueue[memoryview] = SimpleQueue()
    for _ in range(CONNECTIONS):
        buffers.put(memoryview(bytearray(PIECE)))

    def read(piece: tuple[int, int]) -> int:
        buffer = buffers.get()
        client.read_into(piece[0], buffer[: piece[1]])
        buffers.put(buffer)
        return piece[1]

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return sum(threads.map(read, data_pieces(client)))


def digest(client: NbdClient) -> str:
    """SHA-256 of the disk, in hexadecimal."""
    buffer, sha = memoryview(bytearray(PIECE)), hashlib.sha256()
    for at in range(0, client.size, PIECE):
        piece = buffer[: min(PIECE, client.size - at)]
        client.read_into(at, piece)
        sha.update(piece)
    return sha.hexdigest()


def main() -> None:
    what, place = sys.argv[1], Path(sys.argv[2])
    if what == "serve":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        with NbdServer({"": FileExport(Path(sys.argv[3]))}).serving_unix(place):
            signal.sigwait([signal.SIGTERM])
        return
    client = NbdClient.connect_unix(place, contexts=[ALLOCATION])
    print(digest(client) if what == "digest" else read_all(client))
    client.close()


if __name__ == "__main__":
    main()
