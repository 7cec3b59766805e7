# SPDX-License-Identifier: Apache-2.0
"""Disks of a restore point for whoever speaks NBD."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from cyclopts import Parameter

from donjon.cli.commands.points import Spec, find_point
from donjon.cli.options import COMMON, Common, Given, NoLock
from donjon.cli.page import Page
from donjon.cli.result import Deed, Point, describe_point
from donjon.cli.session import Session
from donjon.cli.text import count
from donjon.errors import ConfigError, RefusedError
from donjon.nbd.server import NbdServer
from donjon.restore.disk import find_disk
from donjon.restore.serving import opened_exports, tls_context
from donjon.restore_points import load_manifest
from donjon.scratch_folder import scratch_folder

_PORT = 10809
_SOCKET = "nbd"
_HEARS_S = 0.5
"""A signal that comes in the moment before a wait begins does not end it: so no wait is long."""


@dataclass(frozen=True, slots=True)
class Served(Deed):
    """What was served, and at which addresses, until it was asked to end."""

    restore_point: Point
    exports: tuple[str, ...]

    def show(self, page: Page) -> None:
        """One line: the addresses were told at the beginning."""
        page.line(f"{self.restore_point.vm_name}: {count(len(self.exports), 'disk')} served")


def serve_nbd(
    point: Spec,
    /,
    *,
    disk: Annotated[tuple[str, ...], Parameter(metavar="TARGET", help="Only this disk; may be repeated.")] = (),
    socket: Annotated[Path | None, Parameter(metavar="PATH", help="Unix socket (else one of its own).")] = None,
    tcp: Annotated[str | None, Parameter(metavar="ADDRESS[:PORT]", help="By TCP; port 10809 if none is said.")] = None,
    tls_dir: Annotated[
        Path | None,
        Parameter(metavar="DIR", help="With --tcp: TLS; DIR has server-cert.pem, server-key.pem and ca-cert.pem."),
    ] = None,
    no_lock: NoLock = False,
    common: Common = COMMON,
    program: Given,
) -> Served:
    """Serve the disks of a restore point, read-only.

    Any NBD client can read them, as if they were raw images: each disk is an export named as the guest names it. Only
    who runs donjon reaches the socket. By TCP without TLS every user of this host can read the disks; beyond it TLS is
    needed, and clients show a certificate, too. Ctrl-C ends it.

    Examples:
        donjon serve-nbd web01 --socket /run/web01.nbd

        donjon serve-nbd web01@2026-11-22 --disk vda --tcp 127.0.0.1

        donjon serve-nbd web01 --tcp 192.0.2.7:10809 --tls-dir /etc/pki/donjon
    """
    address = _address(socket, tcp, tls_dir)
    tls = tls_context(tls_dir) if tls_dir else None
    session = Session(common, program)
    if address is not None and tls is None:
        session.warn(f"without TLS every user of this host can read the disks at {tcp}")
    with session.reading(no_lock=no_lock) as repository:
        found = find_point(session.restore_points(repository), point)
        manifest = load_manifest(repository, found)
        disks = [find_disk(manifest, target) for target in disk] if disk else manifest.disks
        with (
            opened_exports(repository, found, disks) as exports,
            suppress(KeyboardInterrupt),
            _serving(NbdServer(exports, tls=tls), socket, address, "nbds" if tls else "nbd") as where,
        ):
            for target in exports:
                session.tell(f"serving {where.format(quote(target, safe=''))}")
            while True:
                time.sleep(_HEARS_S)
        return Served(describe_point(found), tuple(exports))


@contextmanager
def _serving(server: NbdServer, socket: Path | None, address: tuple[str, int] | None, scheme: str) -> Iterator[str]:
    """Serve; gives the exports' address with {} for the name of one."""
    with ExitStack() as held:
        if address is not None:
            host, _ = address
            port = held.enter_context(server.serving_tcp(*address))
            yield f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/{{}}"
            return
        path = socket.absolute() if socket else held.enter_context(scratch_folder()) / _SOCKET
        held.enter_context(server.serving_unix(path))
        yield f"{scheme}+unix:///{{}}?socket={str(path).replace('{', '{{').replace('}', '}}')}"


def _address(socket: Path | None, tcp: str | None, tls_dir: Path | None) -> tuple[str, int] | None:
    """Of --tcp; None for a unix socket.

    Raises:
        ConfigError: the options do not go together, or it is none.
        RefusedError: everybody could read the disks.
    """
    if tcp is None:
        if tls_dir is not None:
            raise ConfigError("cannot serve: --tls-dir only goes with --tcp")
        return None
    if socket is not None:
        raise ConfigError("cannot serve: say --socket or --tcp, not both")
    host, port = _split(tcp)
    try:
        is_loopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError as error:
        raise ConfigError(
            f"cannot serve on {tcp!r}: {error}", hint="write ADDRESS[:PORT], as 127.0.0.1:10809"
        ) from error
    if tls_dir is None and not is_loopback:
        raise RefusedError(
            f"cannot serve on {host}: without TLS everybody there could read the disks", hint="say --tls-dir"
        )
    return host, port


def _split(tcp: str) -> tuple[str, int]:
    host, colon, port = tcp.rpartition(":")
    if not colon or tcp.endswith("]"):
        return tcp.strip("[]"), _PORT
    if host.count(":") and not host.startswith("["):
        return tcp, _PORT
    if not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"cannot serve on {tcp!r}: {port!r} is no port")
    return host.strip("[]"), int(port)
