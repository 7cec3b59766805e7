# SPDX-License-Identifier: Apache-2.0
"""Makes the golden repository of a release, never edited: `PYTHONPATH=. python tests/data/golden/make.py 0.1`."""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from donjon.repository.format.keyfile import new_key_file
from donjon.repository.repository import Repository
from donjon.repository.store import FileName, FileType
from donjon.repository.stores.local import LocalStore
from donjon.repository.writer import WriteOptions
from tests.unit.repository.disks import (
    CHEAP,
    PASSWORD,
    Disk,
    back_up,
    load_map,
    new_repository,
    random_bytes,
    random_disk,
)

HERE = Path(__file__).parent


def main(release: str) -> None:
    """Three restore points: a first, one that builds upon it, and one with a strange name."""
    place = HERE / release / "repository"
    repository = new_repository(LocalStore(place))
    make_anonymous(repository)
    disk = random_disk(1)
    later = disk[:8192] + random_bytes(4096, 9) + disk[12288:]
    points = {back_up(repository, Disk(disk), name="web").snapshot: ("web", disk)}
    with load_map(repository, next(iter(points)), "web") as previous:
        points[back_up(repository, Disk(later), name="web", previous=previous).snapshot] = ("web", later)
    strange, odd = 'd"b \\ é\n', random_disk(3, blocks=3, tail=1)
    points[back_up(repository, Disk(odd), name=strange, options=WriteOptions(level=19)).snapshot] = (strange, odd)
    hashes = {
        point: {"name": name, "sha256": hashlib.sha256(content).hexdigest()}
        for point, (name, content) in points.items()
    }
    (HERE / release / "points.json").write_text(json.dumps(hashes, indent=2) + "\n")
    for folder in sorted(place.rglob("*/"), reverse=True):  # empty ones do not survive version control
        if not any(folder.iterdir()):
            folder.rmdir()


def make_anonymous(repository: Repository) -> None:
    """Replace the key file, which names the user and the machine."""
    store = repository.store
    (old,) = [info.name for info in store.list(FileType.KEY)]
    content = new_key_file(
        repository.key, PASSWORD, created=datetime.now(UTC), username="donjon", hostname="golden", scrypt=CHEAP
    )
    store.save(FileName(FileType.KEY, hashlib.sha256(content).hexdigest()), [content])
    store.delete(FileName(FileType.KEY, old))


if __name__ == "__main__":
    main(sys.argv[1])
