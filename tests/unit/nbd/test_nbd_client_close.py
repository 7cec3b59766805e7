# SPDX-License-Identifier: Apache-2.0
"""No connection of an NBD client outlives it: QEMU, and the guest in it, hangs if one is left half open."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from donjon.errors import HostError
from donjon.nbd.client import NbdClient
from donjon.nbd.server import NbdServer
from donjon.nbd.server_protocol import greeting
from donjon.testing.nbd_exports import MemoryExport

MIB = 1 << 20
LACKING = struct.pack(">QIII", 0x0003E889045565A9, 8, 1, 0) + struct.pack(">QIII", 0x0003E889045565A9, 10, 1, 0)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(20)
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        yield listener


def hears_the_end(peer: socket.socket) -> bool:
    """Whether the client hangs up."""
    peer.settimeout(20)
    while peer.recv(1 << 16):
        pass
    return True


@pytest.mark.parametrize(
    "said",
    [b"", b"nonsense, and more of it", greeting()[:10], greeting() + LACKING],
    ids=["nothing", "nonsense", "half", "no"],
)
def test_a_negotiation_that_fails_is_hung_up_at_once(listener: socket.socket, tmp_path: Path, said: bytes) -> None:
    with ThreadPoolExecutor(1) as threads:
        client = threads.submit(NbdClient.connect_unix, tmp_path / "s", contexts=["base:allocation"])
        peer, _ = listener.accept()
        with peer:
            peer.sendall(said)
            if said in {b"", greeting()[:10]}:
                peer.shutdown(socket.SHUT_WR)
            assert hears_the_end(peer)
        with pytest.raises(HostError, match="cannot talk to the NBD server"):
            client.result(20)


def test_it_is_closed_only_when_the_server_has_let_go_of_it(listener: socket.socket, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        client = threads.submit(NbdClient.connect_unix, tmp_path / "s")
        peer, _ = listener.accept()
        peer.sendall(b"this is no NBD server at all")
        assert hears_the_end(peer)
        assert not client.done()
        peer.close()
        with pytest.raises(HostError):
            client.result(20)


def test_after_close_nothing_can_be_read_and_nobody_is_dialled(tmp_path: Path) -> None:
    export = MemoryExport(bytes(range(256)) * 4096)
    with NbdServer({"": export}).serving_unix(tmp_path / "s"):
        client = NbdClient.connect_unix(tmp_path / "s")
        client.close()
        with pytest.raises(HostError, match="has been closed"):
            client.read_into(0, memoryview(bytearray(1)))
        client.close()
    assert export.reads == []


def test_connections_that_other_threads_use_or_are_opening_are_closed(tmp_path: Path) -> None:
    export = MemoryExport(b"x" * MIB)
    reading, go_on = Event(), Event()

    def wait(_: int) -> None:
        reading.set()
        go_on.wait(20)

    export.before_read = wait
    with ThreadPoolExecutor(3) as threads, NbdServer({"": export}).serving_unix(tmp_path / "s"):
        client = NbdClient.connect_unix(tmp_path / "s")
        first = threads.submit(client.read_into, 0, memoryview(bytearray(1)))
        assert reading.wait(20)
        (tmp_path / "s").rename(tmp_path / "old")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.settimeout(20)
            listener.bind(str(tmp_path / "s"))
            listener.listen()
            second = threads.submit(client.read_into, 0, memoryview(bytearray(1)))
            peer, _ = listener.accept()  # It waits for a greeting now.
            closing = threads.submit(client.close)
            with peer:
                assert hears_the_end(peer)
            closing.result(20)
            for reader in (first, second):
                with pytest.raises(HostError, match="NBD server"):
                    reader.result(20)
            go_on.set()
