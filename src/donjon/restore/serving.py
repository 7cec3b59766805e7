# SPDX-License-Identifier: Apache-2.0
"""Disks of a restore point for an NBD server: read from the repository when they are asked for.

Source: QEMU's docs/system/tls.rst for the names of the files in a directory of certificates.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from donjon.errors import ConfigError
from donjon.model.restore_point import DiskPoint, RestorePoint
from donjon.repository.reader import BlobCache, Image
from donjon.repository.repository import Repository
from donjon.restore.restored_export import RestoredExport
from donjon.restore_points import load_disk

_CACHE = 96 << 20


@contextmanager
def opened_exports(
    repository: Repository, point: RestorePoint, disks: Sequence[DiskPoint]
) -> Iterator[dict[str, RestoredExport]]:
    """Disks by target, for as long as the block lasts; they share a cache of 96 MiB.

    Raises:
        IntegrityError: the map of a disk is damaged.
    """
    cache = BlobCache(repository, _CACHE)
    with ExitStack() as held:
        exports = {}
        for disk in disks:
            block_map = held.enter_context(load_disk(repository, point, disk))
            exports[disk.target] = RestoredExport(held.enter_context(Image(repository, block_map, cache)))
        yield exports


def tls_context(directory: Path) -> ssl.SSLContext:
    """TLS with server-cert.pem and server-key.pem; clients need a certificate that ca-cert.pem vouches for.

    Raises:
        ConfigError: one of them is missing or none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(directory / "server-cert.pem", directory / "server-key.pem")
        context.load_verify_locations(directory / "ca-cert.pem")
    except OSError as error:
        raise ConfigError(
            f"cannot use the certificates in {directory}: {error.strerror or error}",
            hint="it needs server-cert.pem, server-key.pem and ca-cert.pem, as QEMU's servers do",
        ) from error
    return context
