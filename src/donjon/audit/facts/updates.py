# SPDX-License-Identifier: Apache-2.0
"""Pending updates, package sources, and what runs although it was replaced."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle


class Updates(Struct, frozen=True):
    """Facts of updates."""


def read_updates(bundle: Bundle) -> Updates:  # noqa: ARG001
    """From the bundle."""
    return Updates()
