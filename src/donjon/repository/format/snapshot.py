# SPDX-License-Identifier: Apache-2.0
"""Snapshot files: one tree at one moment, the commit point of every backup.

Source: restic design.rst, "Snapshots"; restic internal/restic/snapshot.go for order and omission of fields.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from donjon.repository.format import go_json
from donjon.repository.format.blob import parse_id


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup did; sizes in bytes. restic shows `total_bytes_processed` as the snapshot's size."""

    backup_start: str
    backup_end: str
    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    dirs_new: int = 0
    dirs_changed: int = 0
    dirs_unmodified: int = 0
    data_blobs: int = 0
    tree_blobs: int = 0
    data_added: int = 0
    data_added_packed: int = 0
    total_files_processed: int = 0
    total_bytes_processed: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A snapshot as its file says it. `tree` is the id of the root tree, in hex."""

    time: str
    parent: str | None = None
    tree: str
    paths: list[str]
    hostname: str = ""
    username: str = ""
    uid: int = 0
    gid: int = 0
    excludes: list[str] | None = None
    tags: list[str] | None = None
    original: str | None = None
    program_version: str = ""
    summary: Summary | None = None

    @property
    def taken_at(self) -> datetime:
        """When; raises IntegrityError if the file says nonsense."""
        return go_json.parse_time(self.time)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The text of a snapshot file."""
    return go_json.encode(snapshot)


def decode_snapshot(text: bytes) -> Snapshot:
    """A snapshot.

    Raises:
        IntegrityError: this is not a snapshot.
    """
    snapshot = go_json.decode(text, Snapshot, "a snapshot")
    parse_id(snapshot.tree)
    return snapshot
