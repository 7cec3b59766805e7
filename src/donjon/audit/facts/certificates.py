# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys of the management plane."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle


class Certificates(Struct, frozen=True):
    """Facts of certificates."""


def read_certificates(bundle: Bundle) -> Certificates:  # noqa: ARG001
    """From the bundle."""
    return Certificates()
