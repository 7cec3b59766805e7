# SPDX-License-Identifier: Apache-2.0
"""Sockets on which the host listens."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Unknown


class Listener(Struct, frozen=True):
    """A listening socket.

    `protocol` is tcp or udp; `address` "0.0.0.0" or "::" for all, without zone; `process` is the name of whoever
    listens, "" if that could not be seen.
    """

    protocol: str
    address: str
    port: int
    process: str = ""
    pid: int = 0


class Listeners(Struct, frozen=True):
    """TCP and UDP sockets of the host's network namespace."""

    all: Fact[tuple[Listener, ...]]


def read_listeners(bundle: Bundle) -> Listeners:
    """From ss -lntup, or netstat -lntup on old hosts."""
    return Listeners(Unknown("not read yet"))
