# SPDX-License-Identifier: Apache-2.0
"""By TLS client and server prove who they are, and nothing is told or given without it."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from donjon.errors import HostError
from donjon.nbd.client import NbdClient
from donjon.nbd.negotiation import Option
from donjon.nbd.server import ALLOCATION, NbdServer
from donjon.testing.nbd_exports import MemoryExport
from donjon.testing.nbd_peers import client_asks

MIB = 1 << 20


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def export() -> MemoryExport:
    return MemoryExport(os.urandom(3 * MIB) + bytes(2 * MIB))


@pytest.fixture(scope="module")
def port(ca: trustme.CA, export: MemoryExport) -> Iterator[int]:
    """A server that demands a certificate of its clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    ca.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    with NbdServer({"secret-disk": export}, tls=context).serving_tcp("127.0.0.1") as port:
        yield port


def context_for(ca: trustme.CA, *, issued_by: trustme.CA | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if issued_by is not None:
        issued_by.issue_cert("client@example.org").configure_cert(context)
    return context


def read_all(port: int, tls: ssl.SSLContext | None) -> bytes:
    client = NbdClient.connect_tcp("127.0.0.1", port, "secret-disk", [ALLOCATION], tls=tls)
    try:
        data = bytearray(client.size)
        client.read_into(0, memoryview(data))
        return bytes(data)
    finally:
        client.close()


def test_several_threads_read_by_tls(ca: trustme.CA, port: int, export: MemoryExport) -> None:
    client = NbdClient.connect_tcp("127.0.0.1", port, "secret-disk", tls=context_for(ca, issued_by=ca))

    def read(offset: int) -> bytes:
        data = bytearray(MIB // 2)
        client.read_into(offset, memoryview(data))
        return bytes(data)

    with ThreadPoolExecutor(4) as threads:
        assert b"".join(threads.map(read, range(0, 5 * MIB, MIB // 2))) == export.content
    client.close()


def test_many_requests_of_one_connection_are_answered_by_tls(ca: trustme.CA, port: int, export: MemoryExport) -> None:
    assert read_all(port, context_for(ca, issued_by=ca)) == export.content


def test_a_client_without_a_certificate_is_refused(ca: trustme.CA, port: int) -> None:
    with pytest.raises(HostError, match="certificate"):
        read_all(port, context_for(ca, issued_by=None))


def test_a_client_with_a_certificate_of_somebody_else_is_refused(ca: trustme.CA, port: int) -> None:
    with pytest.raises(HostError, match="cannot talk to the NBD server"):
        read_all(port, context_for(ca, issued_by=trustme.CA()))


def test_a_server_with_a_certificate_of_somebody_else_is_refused(ca: trustme.CA, port: int) -> None:
    with pytest.raises(HostError, match="certificate verify failed"):
        read_all(port, context_for(trustme.CA(), issued_by=ca))


def test_a_server_with_a_certificate_for_another_host_is_refused(ca: trustme.CA) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("elsewhere.example.org").configure_cert(context)
    refused = pytest.raises(HostError, match="certificate verify failed")
    with NbdServer({}, tls=context).serving_tcp("127.0.0.1") as port, refused:
        read_all(port, context_for(ca, issued_by=ca))


def test_without_tls_nothing_is_given(port: int) -> None:
    with pytest.raises(HostError, match="speaks TLS only"):
        read_all(port, None)


def test_a_server_without_tls_is_refused_by_a_client_that_wants_it(ca: trustme.CA, export: MemoryExport) -> None:
    before = list(export.reads)
    refused = pytest.raises(HostError, match="this server has no TLS")
    with NbdServer({"secret-disk": export}).serving_tcp("127.0.0.1") as port, refused:
        read_all(port, context_for(ca, issued_by=ca))
    assert export.reads == before


def test_a_client_that_talks_nonsense_instead_of_tls_is_shown_out(
    ca: trustme.CA, port: int, export: MemoryExport
) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as client, client.makefile("rb") as said:
        client.sendall(client_asks((Option.STARTTLS, b"")) + os.urandom(1000))
        client.shutdown(socket.SHUT_WR)
        assert b"secret-disk" not in said.read()
    assert read_all(port, context_for(ca, issued_by=ca)) == export.content


def test_not_even_the_names_of_exports_are_told_without_tls(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as client, client.makefile("rb") as said:
        client.sendall(client_asks((Option.LIST, b""), (Option.ABORT, b"")))
        answer = said.read()
    assert b"secret-disk" not in answer
    assert b"this server speaks TLS only" in answer
