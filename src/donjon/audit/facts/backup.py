# SPDX-License-Identifier: Apache-2.0
"""What repositories and donjon's own records say of a host's VMs; not in a bundle, put in by whoever has them."""

from __future__ import annotations

from msgspec import Struct, field

from donjon.audit.fact import Fact, Unknown


class Drilled(Struct, frozen=True):
    """The last restore drill of a VM that was passed; "" for `passed` if none was. Times are ISO 8601 in UTC."""

    passed: str = ""
    last: str = ""


class Owed(Struct, frozen=True):
    """Something donjon did to a guest or host and has not undone yet: kind, whom it concerns, since when."""

    kind: str
    subject: str


class Backup(Struct, frozen=True):
    """Facts of backup; unknown as long as nobody asked a repository. `asked`: when that was, ISO 8601 in UTC."""

    restore_points: Fact[dict[str, str]] = field(default_factory=lambda: Unknown("no repository was asked"))
    """VM's UUID -> time of its newest good restore point, ISO 8601 in UTC."""
    asked: str = ""
    drills: Fact[dict[str, Drilled]] = field(default_factory=lambda: Unknown("no record of drills was read"))
    """VM's UUID -> its drills; a VM without any is not in it."""
    owed: Fact[tuple[Owed, ...]] = field(default_factory=lambda: Unknown("donjon's ledger was not read"))
