# SPDX-License-Identifier: Apache-2.0
"""The ssh server: settings in force, authorized keys."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle


class Sshd(Struct, frozen=True):
    """Facts of sshd."""


def read_sshd(bundle: Bundle) -> Sshd:  # noqa: ARG001
    """From the bundle."""
    return Sshd()
