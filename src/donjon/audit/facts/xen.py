# SPDX-License-Identifier: Apache-2.0
"""The Xen hypervisor: xl info, boot arguments, build options."""

from __future__ import annotations

from msgspec import Struct

from donjon.audit.bundle import Bundle


class Xen(Struct, frozen=True):
    """Facts of Xen."""


def read_xen(bundle: Bundle) -> Xen:  # noqa: ARG001
    """From the bundle."""
    return Xen()
