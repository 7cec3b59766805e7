# SPDX-License-Identifier: Apache-2.0
"""Connections to NBD servers, before a word is said."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from donjon.errors import HostError
from donjon.nbd.connection import ANSWER_TIMEOUT_S
from donjon.nbd.stream import Stream

CONNECT_TIMEOUT_S = 15.0


class NoServerError(HostError):
    """Nobody listens there (yet)."""


def dial_unix(path: Path) -> Stream:
    """Connect to a unix socket.

    Raises:
        NoServerError: nobody listens on it.
        HostError: it cannot be reached.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.connect(os.fspath(path))
        return Stream(connected, ANSWER_TIMEOUT_S)
    except OSError as error:
        connected.close()
        raise _unreachable(str(path), error) from error
    except BaseException:
        connected.close()
        raise


def dial_tcp(host: str, port: int) -> Stream:
    """Connect by TCP.

    Raises:
        NoServerError: nobody listens there.
        HostError: it cannot be reached.
    """
    try:
        connected = socket.create_connection((host, port), CONNECT_TIMEOUT_S)
    except (OSError, UnicodeError) as error:
        raise _unreachable(f"{host}:{port}", error) from error
    try:
        connected.settimeout(None)  # The stream has its own way.
        return Stream(connected, ANSWER_TIMEOUT_S)
    except BaseException:
        connected.close()
        raise


def _unreachable(place: str, error: OSError | UnicodeError) -> HostError:
    kind = NoServerError if isinstance(error, FileNotFoundError | ConnectionRefusedError) else HostError
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return kind(f"cannot reach an NBD server at {place}: {reason}")
