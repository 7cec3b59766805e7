# SPDX-License-Identifier: Apache-2.0
"""A disk image of any format as an NBD export of our own, by qemu-nbd on a socket that nobody else can reach.

Source: qemu-nbd(8).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from donjon.errors import HostError
from donjon.host_command import Helper, running
from donjon.nbd.client import CONNECTIONS, NbdClient
from donjon.nbd.dial import NoServerError
from donjon.scratch_folder import scratch_folder

START_TIMEOUT_S = 60.0
FINISH_TIMEOUT_S = 600.0
RETRY_S = 0.005


@contextmanager
def exported(path: str, *options: str, contexts: Sequence[str] = (), description: str = "") -> Iterator[NbdClient]:
    """Keep qemu-nbd running and connected for as long as the block lasts; the image is closed when it is left.

    Args:
        path: of the image.
        options: of qemu-nbd.
        contexts: what `block_status` shall tell about.
        description: of the image, in place of its path, for --image-opts.

    Raises:
        HostError: the image cannot be opened or, on leaving, cannot be closed in order; in QEMU's words.
    """
    with scratch_folder() as folder:
        socket = folder / "socket"
        argv = ["qemu-nbd", "--socket", str(socket), "--shared", str(CONNECTIONS), *options, "--", description or path]
        with running(argv) as server:
            client = _connect(server, socket, contexts, path)
            try:
                yield client
            finally:
                client.close()
            server.finish(FINISH_TIMEOUT_S)  # It ends by itself when its last client has left.


def _connect(server: Helper, socket: Path, contexts: Sequence[str], disk: str) -> NbdClient:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return NbdClient.connect_unix(socket, contexts=contexts, disk=disk)
        except NoServerError:
            server.check_running()
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
        except HostError:
            server.finish(START_TIMEOUT_S)  # If it failed, its own words say more than a lost connection.
            raise
