# SPDX-License-Identifier: Apache-2.0
"""How the host boots: firmware, loader, TPM, consoles."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle


class Boot(Struct, frozen=True):
    """Facts of the boot path."""


def read_boot(bundle: Bundle) -> Boot:  # noqa: ARG001
    """From the bundle."""
    return Boot()
