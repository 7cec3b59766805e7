# SPDX-License-Identifier: Apache-2.0
"""What donjon calls the bitmaps and checkpoints it leaves in images, from one restore point to the next.

A name carries the repository's id, so that backups into two repositories do not take each other's away; the rest is
random, so that no two ever meet. The bitmaps of a VM's disks that begin at the same moment share a name: so a
hypervisor can take them for one checkpoint.
"""

from __future__ import annotations

import secrets


def new_bitmap_name(repository_id: str) -> str:
    """A name that was never used."""
    return _prefix(repository_id) + secrets.token_hex(8)


def is_bitmap_of(repository_id: str, name: str) -> bool:
    """Whether it was begun for a restore point in that repository."""
    return name.startswith(_prefix(repository_id))


def _prefix(repository_id: str) -> str:
    return f"donjon-{repository_id[:8]}-"
