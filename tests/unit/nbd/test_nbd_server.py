# SPDX-License-Identifier: Apache-2.0
"""Disks of ours are served to many clients at once, and no client can hurt another one, or keep us from closing."""

from __future__ import annotations

import select
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Barrier, Event
from typing import IO

import pytest

from donjon.errors import HostError
from donjon.nbd.client import NbdClient
from donjon.nbd.protocol import Command, Status
from donjon.nbd.server import ALLOCATION, Limits, NbdServer
from donjon.testing.nbd_exports import BLOCK, MemoryExport
from donjon.testing.nbd_peers import client_asks, client_requests

MIB = 1 << 20
BITMAP = "qemu:dirty-bitmap:backup-vda"
SIZE = 5 * MIB + 512
HOLE = range(MIB, 3 * MIB)
GO = client_asks((7, struct.pack(">I", 3) + b"vda" + struct.pack(">H", 0)))
NEGOTIATED = 18 + (20 + 12) + (20 + 14) + 20
"""Length of the answer to GO: greeting, export, block sizes, acknowledgement."""
SHORT = Limits(clients=2, strangers=2, negotiation_s=0.3, stall_s=0.3, requests=2)


def content() -> bytes:
    bytes_ = bytearray(Random(1).randbytes(SIZE))
    bytes_[HOLE.start : HOLE.stop] = bytes(len(HOLE))
    return bytes(bytes_)


@pytest.fixture(scope="module")
def disk() -> bytes:
    return content()


@pytest.fixture
def export(disk: bytes) -> MemoryExport:
    return MemoryExport(disk, context=BITMAP)


@pytest.fixture
def path(tmp_path: Path, export: MemoryExport) -> Iterator[Path]:
    with NbdServer({"vda": export}).serving_unix(tmp_path / "s"):
        yield tmp_path / "s"


@pytest.fixture
def connect(path: Path) -> Iterator[Callable[..., NbdClient]]:
    clients: list[NbdClient] = []

    def connect(*contexts: str) -> NbdClient:
        clients.append(NbdClient.connect_unix(path, "vda", contexts))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def read(client: NbdClient, offset: int = 0, length: int = SIZE) -> bytes:
    data = bytearray(b"?" * length)
    client.read_into(offset, memoryview(data))
    return bytes(data)


def dial(path: Path) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(20)
    connected.connect(str(path))
    return connected


def handles_of_bytes_read(said: IO[bytes], count: int) -> list[int]:
    """Which requests, each for one byte, are answered next; without structured replies."""
    answers = said.read(17 * count)
    return [struct.unpack_from(">IIQ", answers, at)[2] for at in range(0, 17 * count, 17)]


def has_hung_up(connected: socket.socket) -> bool:
    """Whether the server does so without anything being read."""
    hanging = select.poll()
    hanging.register(connected, 0)
    return bool(hanging.poll(20_000))


def ended(connected: socket.socket) -> bool:
    """Whether the server hangs up, whatever it says before."""
    try:
        while connected.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def test_the_disk_reads_as_it_is_and_its_holes_are_not_sent(
    connect: Callable[..., NbdClient], export: MemoryExport, disk: bytes
) -> None:
    assert read(connect()) == disk
    read_from_it = {at for offset, length in export.reads for at in range(offset, offset + length, BLOCK)}
    assert read_from_it.isdisjoint(range(HOLE.start, HOLE.stop, BLOCK))


def test_several_clients_read_at_once(connect: Callable[..., NbdClient], disk: bytes) -> None:
    clients = [connect() for _ in range(3)]
    places = range(0, SIZE, 700_001)
    with ThreadPoolExecutor(12) as threads:
        for client in clients:
            pieces = threads.map(lambda at, client=client: read(client, at, min(700_001, SIZE - at)), places)
            assert b"".join(pieces) == disk


def test_requests_of_one_connection_are_answered_out_of_order(path: Path, export: MemoryExport) -> None:
    others_done = Event()

    def keep_the_first_waiting(offset: int) -> None:
        if not offset:
            others_done.wait(20)

    export.before_read = keep_the_first_waiting
    with dial(path) as client, client.makefile("rb") as said:
        client.sendall(GO)
        client.sendall(b"".join(client_requests(Command.READ, offset, 1, handle=offset) for offset in (0, 1, 2)))
        said.read(NEGOTIATED)
        assert sorted(handles_of_bytes_read(said, 2)) == [1, 2]
        others_done.set()
        assert handles_of_bytes_read(said, 1) == [0]


def test_block_status_tells_holes_and_changes(connect: Callable[..., NbdClient], disk: bytes) -> None:
    known = list(connect(ALLOCATION, BITMAP).block_status())
    assert [status.offset for status in known] == list(range(0, SIZE, BLOCK))
    assert known[15:18] == [Status(at * BLOCK, BLOCK, (3 if at >= 16 else 0, at % 2)) for at in (15, 16, 17)]
    assert sum(status.length for status in known if status.flags[0]) == len(HOLE)


def test_a_context_or_an_export_that_there_is_not_is_refused_with_a_reason(path: Path) -> None:
    with pytest.raises(HostError, match="does not offer qemu:dirty-bitmap:other"):
        NbdClient.connect_unix(path, "vda", ["qemu:dirty-bitmap:other"])
    with pytest.raises(HostError, match="there is no export 'vdb'"):
        NbdClient.connect_unix(path, "vdb")


def test_what_is_written_is_there_and_durable_after_a_flush(tmp_path: Path) -> None:
    export = MemoryExport(bytes(SIZE), read_only=False)
    with NbdServer({"": export}).serving_unix(tmp_path / "s"):
        client = NbdClient.connect_unix(tmp_path / "s")
        client.write(MIB, memoryview(content())[: 3 * MIB])
        assert export.flushed is None
        client.flush()
        client.close()
    assert export.flushed == bytes(MIB) + content()[: 3 * MIB] + bytes(SIZE - 4 * MIB)


def test_a_disk_that_cannot_be_read_is_an_error_in_its_own_words(tmp_path: Path) -> None:
    export = MemoryExport(content(), broken=[MIB // 2])
    with NbdServer({"": export}).serving_unix(tmp_path / "s"):
        client = NbdClient.connect_unix(tmp_path / "s", disk="disk vda")
        with pytest.raises(HostError, match=r"cannot access disk vda at offset \d+: .*it is broken"):
            read(client)
        assert read(client, MIB, MIB) == content()[MIB : 2 * MIB]
        client.close()


def test_whoever_does_not_choose_an_export_is_shown_out(tmp_path: Path, export: MemoryExport, disk: bytes) -> None:
    path = tmp_path / "s"
    with NbdServer({"vda": export}, limits=SHORT).serving_unix(path):
        silent = [dial(path) for _ in range(3)]
        trickling = dial(path)
        trickling.sendall(b"\0")
        client = NbdClient.connect_unix(path, "vda")  # Waits until there is room.
        assert read(client) == disk
        assert all(ended(stranger) for stranger in [*silent, trickling])
        assert read(client) == disk
        client.close()
        for stranger in [*silent, trickling]:
            stranger.close()


def test_more_clients_than_allowed_are_turned_away_until_one_leaves(tmp_path: Path, export: MemoryExport) -> None:
    path = tmp_path / "s"
    with NbdServer({"vda": export}, limits=SHORT).serving_unix(path):
        inside = [NbdClient.connect_unix(path, "vda") for _ in range(2)]
        late = NbdClient.connect_unix(path, "vda")
        with pytest.raises(HostError, match=r"it has gone|reset|Broken pipe"):
            read(late)
        inside[0].close()
        another = NbdClient.connect_unix(path, "vda")
        assert read(another) == read(inside[1])
        for client in [*inside, late, another]:
            client.close()


def test_a_client_that_does_not_take_its_answers_is_dropped(tmp_path: Path, export: MemoryExport, disk: bytes) -> None:
    path = tmp_path / "s"
    with NbdServer({"vda": export}, limits=SHORT).serving_unix(path), dial(path) as greedy:
        greedy.sendall(GO)
        greedy.sendall(b"".join(client_requests(Command.READ, 0, SIZE) for _ in range(100)))
        client = NbdClient.connect_unix(path, "vda")
        assert read(client) == disk
        client.close()
        assert has_hung_up(greedy)
        assert len(export.reads) < 30


def test_a_silent_client_that_has_chosen_may_stay(tmp_path: Path, export: MemoryExport, disk: bytes) -> None:
    with NbdServer({"vda": export}, limits=SHORT).serving_unix(tmp_path / "s"):
        client = NbdClient.connect_unix(tmp_path / "s", "vda")
        time.sleep(1.5 * SHORT.stall_s)
        assert read(client) == disk
        client.close()


def test_closing_ends_all_clients_and_waits_for_what_they_are_reading(tmp_path: Path, export: MemoryExport) -> None:
    reading, go_on = Event(), Event()

    def wait(_: int) -> None:
        reading.set()
        go_on.wait(20)

    export.before_read = wait
    server = NbdServer({"vda": export})
    with ThreadPoolExecutor(2) as threads:
        with server.serving_unix(tmp_path / "s"):
            stranger = dial(tmp_path / "s")
            client = NbdClient.connect_unix(tmp_path / "s", "vda")
            answer = threads.submit(read, client)
            assert reading.wait(20)
            closing = threads.submit(server.close)
            with pytest.raises(HostError):
                answer.result(20)
            assert not closing.done()
            go_on.set()
            closing.result(20)
            assert ended(stranger)
            with pytest.raises(HostError, match="cannot reach"):
                NbdClient.connect_unix(tmp_path / "s", "vda")
        client.close()
        stranger.close()
    assert not (tmp_path / "s").exists()


def test_only_its_owner_can_reach_the_socket(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_socket_of_a_dead_server_is_taken_over_but_not_that_of_a_living_one(
    tmp_path: Path, export: MemoryExport
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with NbdServer({"vda": export}).serving_unix(path):
        with pytest.raises(HostError, match=r"cannot serve NBD on .*in use"), NbdServer({}).serving_unix(path):
            pass
        NbdClient.connect_unix(path, "vda").close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(HostError, match="cannot serve NBD on"), NbdServer({}).serving_unix(tmp_path / "s"):
        pass
    assert (tmp_path / "s").read_text() == "precious"


def test_it_serves_by_tcp_too(export: MemoryExport, disk: bytes) -> None:
    with NbdServer({"vda": export}).serving_tcp("127.0.0.1") as port:
        client = NbdClient.connect_tcp("127.0.0.1", port, "vda", tls=None)
        assert read(client) == disk
        client.close()


def test_one_read_has_several_requests_under_way(connect: Callable[..., NbdClient], export: MemoryExport) -> None:
    together = Barrier(2, timeout=20)

    def wait_for_another_one(_: int) -> None:
        together.wait()

    export.before_read = wait_for_another_one
    assert read(connect(), 3 * MIB, 2 * MIB) == content()[3 * MIB : 5 * MIB]


class Vast:
    """A disk of 1 TiB that holds nothing; counts how often it is asked what it holds."""

    size = 1 << 40
    read_only = True
    contexts = (ALLOCATION,)
    asked = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = bytes(len(buffer))

    def block_status(self, context: str, offset: int, length: int) -> list[tuple[int, int]]:
        self.asked += 1
        return [(length, 3)]


def test_what_a_vast_disk_holds_is_known_after_few_requests(tmp_path: Path) -> None:
    vast = Vast()
    with NbdServer({"": vast}).serving_unix(tmp_path / "s"):
        client = NbdClient.connect_unix(tmp_path / "s", contexts=[ALLOCATION])
        assert sum(status.length for status in client.block_status()) == vast.size
        client.close()
    assert vast.asked <= vast.size >> 31
