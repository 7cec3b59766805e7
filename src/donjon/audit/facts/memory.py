# SPDX-License-Identifier: Apache-2.0
"""Memory of the host: KSM, swap, overcommitment."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle


class Memory(Struct, frozen=True):
    """Facts of memory."""


def read_memory(bundle: Bundle) -> Memory:  # noqa: ARG001
    """From the bundle."""
    return Memory()
