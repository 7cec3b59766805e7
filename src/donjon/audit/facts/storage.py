# SPDX-License-Identifier: Apache-2.0
"""Storage: pools, mounts, LVM, exports, secrets."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle


class Storage(Struct, frozen=True):
    """Facts of storage."""


def read_storage(bundle: Bundle) -> Storage:  # noqa: ARG001
    """From the bundle."""
    return Storage()
