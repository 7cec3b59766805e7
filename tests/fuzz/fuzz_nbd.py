# SPDX-License-Identifier: Apache-2.0
"""Plays a hostile NBD server, and a hostile NBD client, with any bytes: only donjon's own errors may come out.

Run it as `python tests/fuzz/fuzz_nbd.py -runs=1000000 CORPUS`; needs atheris. The first byte says who is hostile and
how far both sides have agreed before. tests/property/test_nbd_protocol.py and test_nbd_hostile_client.py do the same as
ordinary tests.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module

from donjon.errors import HostError
from donjon.nbd import negotiation, server_protocol
from donjon.nbd.client import NbdClient
from donjon.nbd.negotiation import Flag, Option, OptionReplyType
from donjon.nbd.server import ALLOCATION
from donjon.testing.nbd_exports import MemoryExport
from donjon.testing.nbd_peers import client_asks, client_hears, server_hears

SIZE = 4096
SERVER_AGREES = b"".join(
    [
        server_protocol.greeting(),
        server_protocol.option_reply(Option.STRUCTURED_REPLY, OptionReplyType.ACK),
        server_protocol.option_reply(
            Option.SET_META_CONTEXT, OptionReplyType.META_CONTEXT, server_protocol.context_payload(0, ALLOCATION)
        ),
        server_protocol.option_reply(Option.SET_META_CONTEXT, OptionReplyType.ACK),
        server_protocol.option_reply(
            Option.GO, OptionReplyType.INFO, server_protocol.export_payload(SIZE, Flag.HAS_FLAGS)
        ),
        server_protocol.option_reply(Option.GO, OptionReplyType.ACK),
    ]
)
CLIENT_AGREES = client_asks(
    (Option.STRUCTURED_REPLY, b""),
    (Option.SET_META_CONTEXT, negotiation.meta_context_payload("", [ALLOCATION])),
    (Option.GO, negotiation.go_payload("")),
)


def read_all(client: NbdClient) -> None:
    """All of a disk that may say it is larger than it is."""
    client.read_into(0, memoryview(bytearray(min(client.size, SIZE))))


def examine(client: NbdClient) -> None:
    """What a disk says it holds, the beginning of it."""
    for _, _status in zip(range(SIZE), client.block_status(), strict=False):
        pass


def ask_server(sent: bytes) -> None:
    """Of a disk that nobody may write to, and of one that anybody may."""
    for read_only in (True, False):
        server_hears(sent, {"": MemoryExport(bytes(SIZE), read_only=read_only)})


PLAYS: Sequence[Callable[[bytes], None]] = (
    lambda data: client_hears(data, read_all),
    lambda data: client_hears(server_protocol.greeting() + data, read_all),
    lambda data: client_hears(SERVER_AGREES + data, read_all),
    lambda data: client_hears(SERVER_AGREES + data, examine),
    ask_server,
    lambda data: ask_server(struct.pack(">I", 3) + data),
    lambda data: ask_server(CLIENT_AGREES + data),
)


def play(data: bytes) -> None:
    """Whatever is not a HostError comes out."""
    if data:
        with suppress(HostError):
            PLAYS[data[0] % len(PLAYS)](data[1:])


def main() -> None:
    """Run the fuzzer with the arguments of libFuzzer."""
    atheris = import_module("atheris")
    atheris.instrument_all()
    atheris.Setup(sys.argv, play)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
