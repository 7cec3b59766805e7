# SPDX-License-Identifier: Apache-2.0
"""Audit, logs and time."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle


class Logging(Struct, frozen=True):
    """Facts of logging."""


def read_logging(bundle: Bundle) -> Logging:  # noqa: ARG001
    """From the bundle."""
    return Logging()
