# SPDX-License-Identifier: Apache-2.0
"""The tools that are compared: how each is told to do the same thing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import Command

PASSWORD = "bench"


@dataclass(frozen=True)
class Place:
    """Where a benchmark works. `image` is the disk; `qcow2` is the same disk in a format that can track changes."""

    folder: Path
    donjon: Path

    @property
    def image(self) -> Path:
        return self.folder / "disk.raw"

    @property
    def qcow2(self) -> Path:
        return self.folder / "disk.qcow2"

    @property
    def out(self) -> Path:
        return self.folder / "out"


@dataclass(frozen=True)
class Peer:
    """A tool. `idle` reads the repository and no image; `restore` and `restore_second` leave the image at `restored`.

    A peer without `second` has no incremental; one without `full` only copies.
    """

    name: str
    version: Command
    repository: Path
    restored: Path
    restore: Command
    full: Command | None = None
    setup: Command | None = None
    idle: Command | None = None
    second: Command | None = None
    restore_second: Command | None = None
    source: str = "raw"


def donjon(place: Place, name: str = "donjon", source: str = "raw") -> Peer:
    """donjon, which reads all of a raw image again, or of a qcow2 image only what its bitmap says has changed."""
    repository, restored = place.folder / name, place.out / "disk.raw"
    image = place.qcow2 if source == "qcow2" else place.image

    def command(*words: str | Path) -> Command:
        state = {"DONJON_PASSWORD": PASSWORD, "DONJON_STATE_DIR": str(place.folder / f"{name}.state")}
        return Command([str(word) for word in (place.donjon, *words)], state)

    backup = command("backup", "bench", "-r", repository, "--disk", f"vda={image}")
    restore = command("restore", "bench", "-r", repository, "--disk", "vda", "--to", restored)
    return Peer(
        name=name,
        version=command("--version"),
        repository=repository,
        restored=restored,
        setup=command("init", "-r", repository),
        idle=command("list", "-r", repository),
        full=backup,
        second=backup,
        restore=restore,
        restore_second=restore,
        source=source,
    )


def donjon_qcow2(place: Place) -> Peer:
    return donjon(place, "donjon-qcow2", "qcow2")


def restic(place: Place, name: str = "restic", stdin: Path | None = None) -> Peer:
    """restic, with the compression it chooses itself; `--sparse` where its version has it."""
    repository = place.folder / name
    environment = {"RESTIC_PASSWORD": PASSWORD, "RESTIC_CACHE_DIR": str(place.folder / f"{name}.cache")}
    sparse = ["--sparse"] if "--sparse" in _output_of(["restic", "restore", "--help"]) else []

    def command(*words: str | Path, stdin: Path | None = None) -> Command:
        return Command(["restic", "-r", str(repository), *map(str, words)], environment, stdin=stdin)

    what = ["--stdin", "--stdin-filename", place.image] if stdin else [place.image]
    backup = command("backup", "--compression", "auto", *what, stdin=stdin)
    restore = command("restore", "latest", "--target", place.out, *sparse)
    return Peer(
        name=name,
        version=Command(["restic", "version"]),
        repository=repository,
        restored=place.out / place.image.relative_to("/"),
        setup=command("init", "--repository-version", "2"),
        idle=command("snapshots"),
        full=backup,
        second=backup,
        restore=restore,
        restore_second=restore,
    )


def restic_stdin(place: Place) -> Peer:
    return restic(place, "restic-stdin", place.image)


def borg(place: Place) -> Peer:
    """borg, with fixed chunks of 4 MiB, as its manual advises for disk images."""
    repository = place.folder / "borg"
    environment = {"BORG_PASSPHRASE": PASSWORD, "BORG_BASE_DIR": str(place.folder / "borg.base")}

    def command(*words: str | Path) -> Command:
        return Command(["borg", *map(str, words)], environment, place.out)

    def create(archive: str) -> Command:
        chunks = ["--chunker-params", "fixed,4194304", "-C", "zstd,3", "--sparse"]
        return command("create", *chunks, f"{repository}::{archive}", place.image)

    return Peer(
        name="borg",
        version=Command(["borg", "--version"]),
        repository=repository,
        restored=place.out / place.image.relative_to("/"),
        setup=command("init", "-e", "repokey", repository),
        idle=command("list", repository),
        full=create("full"),
        second=create("second"),
        restore=command("extract", "--sparse", f"{repository}::full"),
        restore_second=command("extract", "--sparse", f"{repository}::second"),
    )


def qemu_img(place: Place) -> Peer:
    """qemu-img convert: one thread of copying, no encryption, no compression, no history; a mark for the wall clock."""
    image, restored = place.folder / "qemu-img.qcow2", place.out / "disk.raw"
    return Peer(
        name="qemu-img",
        version=Command(["qemu-img", "--version"]),
        repository=image,
        restored=restored,
        full=Command(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(place.image), str(image)]),
        restore=Command(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(image), str(restored)]),
    )


def cp(place: Place) -> Peer:
    """cp: what a sparse restore is measured by."""
    restored = place.out / "disk.raw"
    return Peer(
        name="cp",
        version=Command(["cp", "--version"]),
        repository=place.image,
        restored=restored,
        restore=Command(["cp", "--sparse=always", str(place.image), str(restored)]),
    )


PEERS: dict[str, Callable[[Place], Peer]] = {
    "donjon": donjon,
    "donjon-qcow2": donjon_qcow2,
    "restic": restic,
    "restic-stdin": restic_stdin,
    "borg": borg,
    "qemu-img": qemu_img,
    "cp": cp,
}
DEFAULT = ("donjon", "donjon-qcow2", "restic", "borg", "qemu-img", "cp")


def installed(name: str, place: Place) -> bool:
    """Whether the peer's program is there and says its version."""
    program = shutil.which(str(place.donjon) if name.startswith("donjon") else name.removesuffix("-stdin"))
    return program is not None and bool(version_of(PEERS[name](place)))


def version_of(peer: Peer) -> str:
    """The first line it says about itself."""
    return _output_of(peer.version.argv).partition("\n")[0]


def _output_of(argv: Sequence[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout
