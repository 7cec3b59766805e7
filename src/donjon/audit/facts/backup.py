# SPDX-License-Identifier: Apache-2.0
"""What the repository says of a host's VMs, and how donjon itself runs there."""

from __future__ import annotations

from msgspec import Struct, field

from donjon.audit.fact import Fact, Unknown


class Backup(Struct, frozen=True):
    """Facts of backup; unknown as long as nobody asked a repository."""

    restore_points: Fact[dict[str, str]] = field(default_factory=lambda: Unknown("no repository was asked"))
    """VM's UUID -> time of its newest good restore point, ISO 8601 in UTC."""
