# SPDX-License-Identifier: Apache-2.0
"""Users, groups, password classes, sudo rules."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle


class Accounts(Struct, frozen=True):
    """Facts of accounts."""


def read_accounts(bundle: Bundle) -> Accounts:  # noqa: ARG001
    """From the bundle."""
    return Accounts()
